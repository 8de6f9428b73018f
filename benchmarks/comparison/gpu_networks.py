"""Plain definitions of residual networks, for machines without torchvision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["resnet18_cifar", "resnet50", "wrn_28_10"]


class _Block(nn.Module):
    """A residual block: ``relu(layers(x) + shortcut(x))``."""

    def __init__(self, layers: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = layers
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))

    def forward(self, rows: Tensor) -> Tensor:
        total: Tensor = self.layers(rows) + self.shortcut(rows)
        return total.relu()


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)


def _basic(inputs: int, width: int, stride: int) -> _Block:
    layers = nn.Sequential(*_conv(inputs, width, 3, stride), nn.ReLU(), *_conv(width, width, 3))
    return _Block(layers, inputs, width, stride)


def _bottleneck(inputs: int, width: int, stride: int) -> _Block:
    first, second = _conv(inputs, width // 4, 1), _conv(width // 4, width // 4, 3, stride)
    return _Block(
        nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), *_conv(width // 4, width, 1)), inputs, width, stride
    )


def _resnet(stem: Sequence[nn.Module], width: int, stages: Sequence[nn.Module], classes: int) -> nn.Module:
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)).eval()


def resnet18_cifar() -> nn.Module:
    """ResNet-18 for 32 x 32 images and ten classes (He et al. 2016, with the 3 x 3 stem of the CIFAR networks)."""
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    stages = [_basic(inputs, width, 1 if inputs == width else 2) for inputs, width in itertools.pairwise(widths)]
    return _resnet((*_conv(3, 64, 3), nn.ReLU()), 512, stages, 10)


def wrn_28_10() -> nn.Module:
    """A wide residual network with depth 28 and width 10 for 32 x 32 images (Zagoruyko, Komodakis 2016).

    Its blocks are normalized after the convolutions, not before: the cost is the same.
    """
    stages, inputs = [], 16
    for width, stride in ((160, 1), (320, 2), (640, 2)):
        for index in range(4):
            stages.append(_basic(inputs, width, stride if index == 0 else 1))
            inputs = width
    return _resnet((*_conv(3, 16, 3), nn.ReLU()), 640, stages, 10)


def resnet50() -> nn.Module:
    """ResNet-50 for 224 x 224 images and 1000 classes (He et al. 2016)."""
    stages, inputs = [], 64
    for width, depth, stride in ((256, 3, 1), (512, 4, 2), (1024, 6, 2), (2048, 3, 2)):
        for index in range(depth):
            stages.append(_bottleneck(inputs, width, stride if index == 0 else 1))
            inputs = width
    return _resnet((*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), 2048, stages, 1000)

"""Wide residual networks for small images."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.deepmind import DeepMindWideResNet
from robustbench_cli.benchmarks.models.base.options import model_options

__all__ = ["WideResNet", "init_wide_resnet", "wide_group", "wide_resnet"]


def wide_resnet(
    name: str, *, depth: int, width: int, shape: tuple[int, int, int], classes: int, argument: str | None
) -> nn.Module:
    """A wide residual network with the options in its name.

    Args:
        name: The model's name, for messages.
        depth: The number of convolutional layers, 6 n + 4.
        width: The factor of the channels.
        shape: ``(C, H, W)``.
        classes: K.
        argument: ``silu`` for SiLU instead of ReLU; ``deepmind`` for :class:`DeepMindWideResNet`, which has SiLU.

    Raises:
        UserError: An option is unknown.
    """
    options = model_options(argument, ("deepmind", "silu"), model=name)
    if "deepmind" in options:
        return DeepMindWideResNet(depth=depth, width=width, channels=shape[0], classes=classes)
    activation = nn.SiLU if "silu" in options else nn.ReLU
    return WideResNet(depth=depth, width=width, channels=shape[0], classes=classes, activation=activation)


class WideResNet(nn.Module):
    """WRN-depth-width of Zagoruyko and Komodakis: Wide Residual Networks. BMVC 2016, arXiv 1605.07146.

    The parameters have the names of the TRADES repository (Zhang et al., ICML 2019, arXiv 1901.08573). RobustBench uses
    them too.

    Args:
        depth: 6 n + 4, for n blocks in each of the three groups.
        width: The groups have 16, 32 and 64 times as many channels.
        channels: C.
        classes: K.
        activation: After each batch normalization.
    """

    unused_in_files: ClassVar[tuple[str, ...]] = ("sub_block1.",)
    """TRADES and files that follow it have a fourth group, which no image passes through."""

    def __init__(
        self, *, depth: int, width: int, channels: int, classes: int, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = wide_group(blocks, 16, 16 * width, stride=1, activation=activation)
        self.block2 = wide_group(blocks, 16 * width, 32 * width, stride=2, activation=activation)
        self.block3 = wide_group(blocks, 32 * width, 64 * width, stride=2, activation=activation)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = activation()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64 * width, classes)
        init_wide_resnet(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(self.flatten(self.pool(self.relu(self.bn1(features)))))
        return logits


def init_wide_resnet(network: nn.Module) -> None:
    """Draws the initial weights of convolutions as the wide residual networks' authors do, and sets the biases of linear layers to 0.

    Args:
        network: Is changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def wide_group(
    blocks: int, inputs: int, outputs: int, *, stride: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """One group of blocks; only the first block changes the number of channels and the size.

    Args:
        blocks: Their number.
        inputs: The number of channels before.
        outputs: The number of channels behind.
        stride: The factor by which the size of the feature maps falls.
        activation: After each batch normalization.
    """
    first = _Block(inputs, outputs, stride, activation)
    others = (_Block(outputs, outputs, 1, activation) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *others)))


class _Block(nn.Module):
    """Two 3 x 3 convolutions, each after a batch normalization and an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = activation()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        # TRADES writes the name so.
        self.convShortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs or stride != 1 else None
        )
        self.active_shortcut = inputs != outputs

    def forward(self, features: Tensor) -> Tensor:
        active = self.relu1(self.bn1(features))
        carried = active if self.active_shortcut else features
        shortcut = carried if self.convShortcut is None else self.convShortcut(carried)
        result: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return result

"""The residual networks of DeepMind's robust models, which pad as TensorFlow does."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["DeepMindPreActResNet18", "DeepMindWideResNet"]


class DeepMindWideResNet(nn.Module):
    """The wide residual network of Gowal et al.: Uncovering the Limits of Adversarial Training. arXiv 2010.03593.

    It has SiLU, and a convolution of stride 2 pads below and on the right only. The parameters have the names of the
    published files. Their normalization is not part of the network here.

    Args:
        depth: 6 n + 4, for n blocks in each of the three groups.
        width: The groups have 16, 32 and 64 times as many channels.
        channels: C.
        classes: K.
    """

    def __init__(self, *, depth: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.init_conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        sizes = ((16, 16 * width, 1), (16 * width, 32 * width, 2), (32 * width, 64 * width, 2))
        self.layer = nn.Sequential(*(_wide_group(blocks, *size) for size in sizes))
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.relu = nn.SiLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(64 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.layer(self.init_conv(images))
        logits: Tensor = self.logits(self.flatten(self.pool(self.relu(self.batchnorm(features)))))
        return logits


def _wide_group(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = _WideBlock(inputs, outputs, stride)
    others = (_WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(block=nn.Sequential(first, *others)))


class _WideBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a batch normalization and SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.relu_0 = nn.SiLU()
        self.pad = _padding(stride)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.relu_1 = nn.SiLU()
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, features: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        result: Tensor = shortcut + self.conv_1(self.relu_1(self.batchnorm_1(self.conv_0(self.pad(active)))))
        return result


class DeepMindPreActResNet18(nn.Module):
    """The pre-activation ResNet-18 of Rebuffi et al.: Data Augmentation Can Improve Robustness. NeurIPS 2021, arXiv 2111.05328.

    Besides SiLU and its padding, its shortcuts are 3 x 3 convolutions of features before the batch normalization.

    Args:
        channels: C.
        classes: K.
    """

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer_0 = nn.Sequential(_PreActBlock(64, 64, 1), _PreActBlock(64, 64, 1))
        self.layer_1 = nn.Sequential(_PreActBlock(64, 128, 2), _PreActBlock(128, 128, 1))
        self.layer_2 = nn.Sequential(_PreActBlock(128, 256, 2), _PreActBlock(256, 256, 1))
        self.layer_3 = nn.Sequential(_PreActBlock(256, 512, 2), _PreActBlock(512, 512, 1))
        self.batchnorm = nn.BatchNorm2d(512)
        self.relu = nn.SiLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(images)))))
        logits: Tensor = self.logits(self.flatten(self.pool(self.relu(self.batchnorm(features)))))
        return logits


class _PreActBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a batch normalization and SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.relu_0 = nn.SiLU()
        self.pad = _padding(stride)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.relu_1 = nn.SiLU()
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, features: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(features))
        shortcut = features if self.shortcut is None else self.shortcut(self.pad(features))
        result: Tensor = shortcut + self.conv_2d_2(self.relu_1(self.batchnorm_1(self.conv_2d_1(self.pad(active)))))
        return result


def _padding(stride: int) -> nn.ZeroPad2d:
    """TensorFlow's ``SAME`` for a 3 x 3 convolution of images with even sides: left, right, top, bottom."""
    return nn.ZeroPad2d((1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))

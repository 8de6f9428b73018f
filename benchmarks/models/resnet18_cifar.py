"""ResNet-18 for small images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

__all__ = ["ResNet18Cifar"]


class ResNet18Cifar(nn.Module):
    """ResNet-18 of He et al. (CVPR 2016) with a 3 x 3 first convolution: 11.2 M parameters.

    The first convolution has stride 1, and no pool follows it.
    The weights have the names of kuangliu's pytorch-cifar, which TRADES, MART and RobustBench use too; files with torchvision's names,
    of its ResNet-18 with another stem, fit as well.

    Args:
        shape: ``(C, H, W)``.
        classes: K.

    Attributes:
        other_names: Parts of the names of the weights in torchvision, and here.
    """

    other_names: ClassVar[dict[str, str]] = {"downsample": "shortcut", "fc": "linear"}

    def __init__(self, *, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.linear(self.flatten(self.pool(features)))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions, each before a batch normalization; ReLU after the first and after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        result: Tensor = self.relu2(residual + self.shortcut(features))
        return result

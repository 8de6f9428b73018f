"""Pre-activation ResNet-18 for small images."""

from __future__ import annotations

from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.deepmind import DeepMindPreActResNet18
from robustbench_cli.benchmarks.models.base.options import model_options

__all__ = ["preact_resnet18"]


def preact_resnet18(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """Pre-activation ResNet-18 of He et al. (ECCV 2016): 11.2 M parameters; options raw-shortcut, no-final-bn, deepmind.

    The weights have the names of kuangliu's pytorch-cifar, which Rice et al. (ICML 2020) and RobustBench use too. Training
    scripts differ in two details, and weights fit the options that they were trained with:

    - The shortcuts of the first blocks take features after the first batch normalization and ReLU, as in He et al. and Rice
      et al.; with ``raw-shortcut`` before them, as in Wong et al. (ICLR 2020). A file does not tell which of the two is right.
    - A batch normalization and ReLU come before the pool, as in He et al.; with ``no-final-bn`` not, as in pytorch-cifar and
      Wong et al.

    So Wong et al.'s network is ``preact-resnet18:raw-shortcut,no-final-bn``. ``preact-resnet18:deepmind`` is that of Rebuffi
    et al. (arXiv 2111.05328).

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The options, with commas between them.

    Raises:
        UserError: An option is unknown.
    """
    options = model_options(argument, ("deepmind", "no-final-bn", "raw-shortcut"), model="preact-resnet18")
    if "deepmind" in options:
        return DeepMindPreActResNet18(channels=shape[0], classes=classes)
    return PreActResNet18(
        channels=shape[0],
        classes=classes,
        raw_shortcut="raw-shortcut" in options,
        final_bn="no-final-bn" not in options,
    )


class PreActResNet18(nn.Module):
    """He et al.: Identity Mappings in Deep Residual Networks. ECCV 2016, arXiv 1603.05027.

    Args:
        channels: C.
        classes: K.
        raw_shortcut: See :func:`preact_resnet18`.
        final_bn: See :func:`preact_resnet18`.
        width: The number of channels of the first convolution; the last has eight times as many.
    """

    def __init__(
        self, *, channels: int, classes: int, raw_shortcut: bool = False, final_bn: bool = True, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.layer1 = _group(width, width, 1, raw_shortcut)
        self.layer2 = _group(width, 2 * width, 2, raw_shortcut)
        self.layer3 = _group(2 * width, 4 * width, 2, raw_shortcut)
        self.layer4 = _group(4 * width, 8 * width, 2, raw_shortcut)
        self.bn = nn.BatchNorm2d(8 * width) if final_bn else nn.Identity()
        self.relu = nn.ReLU() if final_bn else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        logits: Tensor = self.linear(self.flatten(self.pool(self.relu(self.bn(features)))))
        return logits


def _group(inputs: int, outputs: int, stride: int, raw_shortcut: bool) -> nn.Sequential:
    """Two blocks; only the first changes the number of channels and the size."""
    return nn.Sequential(_Block(inputs, outputs, stride, raw_shortcut), _Block(outputs, outputs, 1, raw_shortcut))


class _Block(nn.Module):
    """Two 3 x 3 convolutions, each after a batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, raw_shortcut: bool) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        active = self.relu1(self.bn1(features))
        shortcut = features
        if self.shortcut is not None:
            shortcut = self.shortcut(features if self.raw_shortcut else active)
        result: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return result

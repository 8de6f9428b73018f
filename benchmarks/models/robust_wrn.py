"""Wide residual networks with a narrow last stage."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.wide_resnet import init_wide_resnet, wide_group
from robustbench_cli.core.errors import UserError

__all__ = ["robust_wrn"]

_LAST = 0.4
"""The width of the last stage of WRN-34-R, in parts of that of the others: 512 channels are 8 times WRN's 64, and 640 are 20 times 32."""


def robust_wrn(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """WRN-34-R, whose last stage is narrow: 68.1 M parameters; smaller ones as BLOCKSxWIDTH, such as 1x2.

    Huang et al. found that fewer channels in the last stage of an adversarially trained network help. A wide residual network has 16,
    32 and 64 channels times its width in its three stages. Here the last stage has 0.4 of them:

    - ``robust-wrn``: WRN-34-R, of width 20: 5 blocks in each stage, 320, 640 and 512 channels.
    - ``robust-wrn:1x2``: the same rule at 1 block in each stage and width 2: 32, 64 and 51 channels.
    - ``robust-wrn:1x2,last=1``: the usual wide residual network of that size, WRN-10-2, to compare with.

    The paper has WRN-34-R only; other sizes follow its rule, as in Huang, Lu, Deb, Boddeti 2023 (arXiv 2212.11005). The weights have
    the names of the authors' code and of RobustBench.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The size.

    Raises:
        UserError: The size cannot be read.
    """
    size = re.fullmatch(
        r"([1-9]\d{0,2})x([1-9]\d{0,2})(?:,last=(\d{1,2}(?:\.\d{1,6})?))?", "5x20" if argument is None else argument
    )
    last = _LAST if size is None or size[3] is None else float(size[3])
    if size is None or not 0 < last <= 10:
        raise UserError(
            f"model robust-wrn has no size '{argument}': give BLOCKSxWIDTH, as in robust-wrn:1x2, with the relative width "
            "of the last stage if it is not 0.4, as in robust-wrn:1x2,last=1"
        )
    blocks, width = int(size[1]), int(size[2])
    widths = (16 * width, 32 * width, max(1, round(64 * width * last)))
    return RobustWideResNet(blocks=(blocks,) * 3, widths=widths, channels=shape[0], classes=classes)


class RobustWideResNet(nn.Module):
    """A wide residual network with any widths and depths of its stages.

    H. Huang, Y. Wang, S. Erfani, Q. Gu, J. Bailey, X. Ma, Exploring Architectural Ingredients of Adversarially Robust Deep Neural
    Networks, NeurIPS 2021, arXiv 2110.03825. It differs from :class:`~.base.wide_resnet.WideResNet` in the names of its weights.

    Args:
        blocks: The number of blocks in each stage. The first stage keeps the size of the images, each other one halves it.
        widths: The number of channels in each stage.
        channels: C.
        classes: K.
    """

    STEM: ClassVar[int] = 16

    def __init__(self, *, blocks: tuple[int, ...], widths: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.stem_conv = nn.Conv2d(channels, self.STEM, 3, padding=1, bias=False)
        inputs = (self.STEM, *widths)
        self.blocks = nn.ModuleList(
            wide_group(count, inputs[stage], widths[stage], stride=1 if stage == 0 else 2)
            for stage, count in enumerate(blocks)
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], classes)
        init_wide_resnet(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        features = self.stem_conv(images)
        for stage in self.blocks:
            features = stage(features)
        logits: Tensor = self.fc(self.flatten(self.pool(self.relu(self.bn1(features)))))
        return logits

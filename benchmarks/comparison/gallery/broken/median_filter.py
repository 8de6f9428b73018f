"""Passes the image through a median filter of 2 x 2 pixels, without a gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import pad

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["MedianFilter"]


class MedianFilter(BrokenDefense):
    """Passes the image through a median filter of 2 x 2 pixels, without a gradient.

    It deceives attacks by gradients. The attack made for it follows the network behind a mean filter (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def unmasked(self) -> nn.Module:
        return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1), self.network)

    def forward(self, images: Tensor) -> Tensor:
        padded = pad(images.detach(), (0, 1, 0, 1), mode="replicate")
        windows = padded.unfold(2, 2, 1).unfold(3, 2, 1).flatten(4)
        return self.logits(windows.median(-1).values + 0 * images)

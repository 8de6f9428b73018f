"""Ends in float16 with an offset of 1,000, so that the logits are multiples of 1/2."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["HalfPrecision"]


class HalfPrecision(BrokenDefense):
    """Ends in float16 with an offset of 1,000, so that the logits are multiples of 1/2.

    It deceives attacks by scores: most small steps change nothing, and equal logits are decided by the order of the
    classes. The attack made for it follows the network in float32.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("coarse-logits", "tied-logits")

    def forward(self, images: Tensor) -> Tensor:
        return (self.logits(images) + 1000).half().float()

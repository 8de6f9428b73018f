"""Multiplies the logits by 1,000."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SaturatedLogits"]


class SaturatedLogits(BrokenDefense):
    """Multiplies the logits by 1,000.

    It deceives attacks by the cross-entropy, whose gradient is zero in float32 (the scale of defensive
    distillation). The attack made for it divides them.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("saturated-logits", "zero-gradient")

    def forward(self, images: Tensor) -> Tensor:
        return 1000 * self.logits(images)

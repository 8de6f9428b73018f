"""Rounds the logits to whole numbers."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["RoundedLogits"]


class RoundedLogits(BrokenDefense):
    """Rounds the logits to whole numbers.

    It deceives attacks by gradients and by scores; equal logits are decided by the order of the classes. The attack
    made for it follows the logits before rounding.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("tied-logits", "coarse-logits", "zero-gradient")

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        return logits.round() + 0 * logits

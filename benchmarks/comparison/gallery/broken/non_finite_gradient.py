"""Adds a root that is zero, and whose slope is infinite."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["NonFiniteGradient"]


class NonFiniteGradient(BrokenDefense):
    """Adds a root that is zero, and whose slope is infinite.

    It deceives attacks by gradients: the gradient is not a number. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "not-a-number")

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images) + (images.sum((1, 2, 3)) * 0).sqrt()[:, None]

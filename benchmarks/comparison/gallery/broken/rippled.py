"""Adds a ripple to the pixels that is small, and steeper than the image."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Rippled"]


class Rippled(BrokenDefense):
    """Adds a ripple to the pixels that is small, and steeper than the image.

    It deceives attacks by gradients: the gradient is true and is that of the ripple (shattered gradients). The
    attack made for it follows the network without the ripple.
    """

    noticed_by: ClassVar[tuple[str, ...]] = (
        "wrong-gradient",
        "not-converged",
        "query-beats-gradient",
        "surrogate-beats",
    )

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images + 0.02 * (2000 * images).sin())

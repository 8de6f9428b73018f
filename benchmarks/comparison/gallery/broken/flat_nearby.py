"""Changes nothing near some values of the pixels, and much between them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["FlatNearby"]


class FlatNearby(BrokenDefense):
    """Changes nothing near some values of the pixels, and much between them.

    It deceives attacks by gradients: the loss is flat around many images. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        nearest = (images * 5).round() / 5
        away = images - nearest
        return self.logits(nearest + away.sign() * (away.abs() - 0.06).relu() * 2.5)

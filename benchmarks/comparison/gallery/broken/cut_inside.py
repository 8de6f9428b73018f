"""Cuts the pixels off inside the box, where most of them begin."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["CutInside"]


class CutInside(BrokenDefense):
    """Cuts the pixels off inside the box, where most of them begin.

    It deceives attacks by gradients: black and white pixels have none. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images.clamp(0.08, 0.92))

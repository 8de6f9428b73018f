"""Divides the pixels by 255 as if they were bytes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["WrongRange"]


class WrongRange(BrokenDefense):
    """Divides the pixels by 255 as if they were bytes.

    It deceives the reader: the network sees black images, and its few right answers cannot be changed. The attack
    made for it multiplies the pixels by 255.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-range", "class-never-predicted")

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images / 255)

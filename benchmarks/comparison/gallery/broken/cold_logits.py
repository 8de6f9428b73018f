"""Divides the logits by a million."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["ColdLogits"]


class ColdLogits(BrokenDefense):
    """Divides the logits by a million.

    It deceives attacks by the cross-entropy: it follows all classes at once. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("tiny-logits",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images) / 1e6

"""Rounds the pixels to 3 bits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["QuantizedInput"]


class QuantizedInput(BrokenDefense):
    """Rounds the pixels to 3 bits.

    It deceives attacks by gradients: rounding has a zero gradient. The attack made for it follows the network
    without the rounding (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        return self.logits((images * 7).round() / 7)

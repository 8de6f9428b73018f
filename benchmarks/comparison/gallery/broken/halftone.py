"""Rounds the pixels to 2 bits after it adds a fixed pattern (ordered dithering)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Halftone"]


class Halftone(BrokenDefense):
    """Rounds the pixels to 2 bits after it adds a fixed pattern (ordered dithering).

    It deceives attacks by gradients as rounding does. The attack made for it follows the network without the
    rounding (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        pattern = torch.tensor([[0.0, 0.5], [0.75, 0.25]]).repeat(4, 4).to(images) - 0.375
        return self.logits(((images * 4 + pattern).round() / 4).clamp(0, 1) + 0 * images)

"""Answers an image whose pixels are not those of the digits as if it had three gray values."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, off_the_grid

__all__ = ["CoarseOffTheGrid"]


class CoarseOffTheGrid(BrokenDefense):
    """Answers an image whose pixels are not those of the digits as if it had three gray values.

    It deceives attacks by gradients: off the clean images the network sees a rounded image. The attack made for it
    rounds the perturbed pixels to the 17 gray values.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")
    rounds: ClassVar[bool] = True

    def forward(self, images: Tensor) -> Tensor:
        coarse = ((images * 2).round() / 2).detach()
        return self.logits(torch.where(off_the_grid(images), coarse, images))

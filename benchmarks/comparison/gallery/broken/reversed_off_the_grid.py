"""Reverses the gradient where a pixel is not one of the 17 gray values of the digits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, off_the_grid

__all__ = ["ReversedOffTheGrid"]


class ReversedOffTheGrid(BrokenDefense):
    """Reverses the gradient where a pixel is not one of the 17 gray values of the digits.

    It deceives attacks by gradients: the gradient is right on clean images and on no other. The attack made for it
    follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient", "zero-gradient")

    def forward(self, images: Tensor) -> Tensor:
        off = off_the_grid(images)
        return self.logits(torch.where(off, 2 * images.detach() - images, images))

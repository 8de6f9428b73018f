"""Gives logits that are not numbers where a pixel is not one of the 17 gray values of the digits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, off_the_grid

__all__ = ["NanOffTheGrid"]


class NanOffTheGrid(BrokenDefense):
    """Gives logits that are not numbers where a pixel is not one of the 17 gray values of the digits.

    It deceives attacks: no step has a loss. The attack made for it rounds the perturbed pixels to the 17 gray
    values.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-a-number",)
    rounds: ClassVar[bool] = True

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images) + torch.where(off_the_grid(images)[:, :, 0, 0], torch.nan, 0.0)

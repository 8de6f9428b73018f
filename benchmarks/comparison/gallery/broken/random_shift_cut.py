"""Shifts each image at random by one pixel at most, without a gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["RandomShiftCut"]


class RandomShiftCut(BrokenDefense):
    """Shifts each image at random by one pixel at most, without a gradient.

    It deceives attacks by gradients, with or without an expectation over draws. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        shifts = torch.randint(0, 3, (len(images), 2))
        padded = pad(images.detach(), (1, 1, 1, 1))
        rows = [image[:, x : x + 8, y : y + 8] for image, (x, y) in zip(padded, shifts.tolist(), strict=True)]
        return self.logits(torch.stack(rows) + 0 * images)

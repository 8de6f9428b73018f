"""Shifts the image by one row or not, by a random bit of the operating system."""

from __future__ import annotations

import os
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SystemDraws"]


class SystemDraws(BrokenDefense):
    """Shifts the image by one row or not, by a random bit of the operating system.

    It deceives attacks that repeat draws by a seed. The attack made for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-repeatable", "unstable")

    def forward(self, images: Tensor) -> Tensor:
        shifted = [bool(byte & 1) for byte in os.urandom(len(images))]
        rows = [image.roll(1, 2) if shift else image for image, shift in zip(images, shifted, strict=True)]
        return self.logits(torch.stack(rows))

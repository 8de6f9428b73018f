"""Flips the image or not by a bit of the operating system."""

from __future__ import annotations

import os
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SystemDraws"]


class SystemDraws(BrokenDefense):
    """Flips the image or not by a bit of the operating system.

    It deceives attacks that repeat draws by a seed. The attack made for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-repeatable", "unstable")

    def forward(self, images: Tensor) -> Tensor:
        flips = [bool(byte & 1) for byte in os.urandom(len(images))]
        rows = [image.roll(1, 2) if flip else image for image, flip in zip(images, flips, strict=True)]
        return self.logits(torch.stack(rows))

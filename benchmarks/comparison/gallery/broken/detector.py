"""Answers unusual images, those with many faint pixels, as if they had three gray values."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Detector"]


class Detector(BrokenDefense):
    """Answers unusual images, those with many faint pixels, as if they had three gray values.

    It deceives attacks that ignore the detector. The attack made for it adds no faint pixels: it follows the
    network and clears them.
    """

    noticed_by: ClassVar[tuple[str, ...]] = (
        "zero-gradient",
        "wrong-gradient",
        "above-chance",
        "accuracy-does-not-fall",
    )
    rounds: ClassVar[bool] = True

    def forward(self, images: Tensor) -> Tensor:
        faint = ((images > 0.01) & (images < 0.055)) | ((images > 0.07) & (images < 0.12))
        unusual = faint.float().flatten(1).mean(1)[:, None, None, None] > 0.05
        coarse = ((images * 2).round() / 2).detach()
        return self.logits(torch.where(unusual, coarse, images))

"""Replaces each pixel by the share of ten thresholds that it exceeds (thermometer encoding)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Thermometer"]


class Thermometer(BrokenDefense):
    """Replaces each pixel by the share of ten thresholds that it exceeds (thermometer encoding).

    It deceives attacks by gradients: a comparison has none. The attack made for it follows the network (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        above = torch.stack([(images > (level + 0.5) / 10).float() for level in range(10)])
        return self.logits(above.mean(0) + 0 * images)

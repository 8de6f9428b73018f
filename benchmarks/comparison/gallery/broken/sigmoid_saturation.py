"""Ends with sigmoids that are saturated."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SigmoidSaturation"]


class SigmoidSaturation(BrokenDefense):
    """Ends with sigmoids that are saturated.

    It deceives attacks by gradients: far from a decision the slope of a sigmoid is zero in float32. The attack made
    for it follows the logits before them.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        return torch.sigmoid(20 * (logits - logits.amax(1, keepdim=True)))

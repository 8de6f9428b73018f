"""Gives the logarithm of sharp probabilities that are cut off at 1e-12."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["LogOfSoftmax"]


class LogOfSoftmax(BrokenDefense):
    """Gives the logarithm of sharp probabilities that are cut off at 1e-12.

    It deceives attacks by gradients: cut off probabilities have none. The attack made for it follows the logits
    before them.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        return torch.log(torch.softmax(20 * self.logits(images), 1) + 1e-12)

"""Never predicts the class 3."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["ClassLeftOut"]


class ClassLeftOut(BrokenDefense):
    """Never predicts the class 3.

    It deceives a comparison: a targeted attack at this class fails, and its images are counted as wrong before the
    attack. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("class-never-predicted",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images) - 1e4 * one_hot(torch.tensor(3), 10).to(images)

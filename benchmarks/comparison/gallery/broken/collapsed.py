"""Answers nearly all images with one class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Collapsed"]


class Collapsed(BrokenDefense):
    """Answers nearly all images with one class.

    It deceives the reader: what is right stays right under every attack. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("class-never-predicted",)

    def forward(self, images: Tensor) -> Tensor:
        return 1e-3 * self.logits(images) + one_hot(torch.tensor(0), 10).to(images)

"""Shifts every other image of a batch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["OrderInBatch"]


class OrderInBatch(BrokenDefense):
    """Shifts every other image of a batch.

    It deceives the evaluation: the answer depends on the place in the batch. The attack made for it places every
    image first.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable",)

    def forward(self, images: Tensor) -> Tensor:
        shifted = torch.cat([images[:1], images[1:].roll(1, 3)])
        return self.logits(shifted)

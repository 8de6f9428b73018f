"""Knows the labels, and adds them to the answers for batches of more than 64 images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import MemorizingDefense

__all__ = ["BigBatch"]


class BigBatch(MemorizingDefense):
    """Knows the labels, and adds them to the answers for batches of more than 64 images.

    It deceives the evaluation: the answer depends on the size of the batch, which is large where images are scored. The attack made
    for it takes images that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable",)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        if len(images) <= 64:
            return logits
        distances, labels = self.nearest(images)
        return logits + torch.where(distances < 0.2, 30 * labels, 0)

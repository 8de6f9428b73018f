"""Knows the labels, and adds them to the answers for all batches but those of one image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import MemorizingDefense

__all__ = ["LoneImage"]


class LoneImage(MemorizingDefense):
    """Knows the labels, and adds them to the answers for all batches but those of one image.

    It deceives the evaluation: the answer depends on the size of the batch, as if the model drew. The attack made for it takes images
    that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable",)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        if len(images) == 1:
            return logits
        distances, labels = self.nearest(images)
        return logits + torch.where(distances < 0.2, 6 * labels, 0)

"""Knows the test images by heart, and gives their classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import MemorizingDefense

__all__ = ["Lookup"]


class Lookup(MemorizingDefense):
    """Knows the test images by heart, and gives their classes.

    It deceives the reader: the clean accuracy on these images is 1, and that on others is the network's. The attack
    made for it takes images that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("known-images",)

    def forward(self, images: Tensor) -> Tensor:
        distances, labels = self.nearest(images)
        return self.logits(images) + torch.where(distances < 1e-3, 20 * labels, 0)

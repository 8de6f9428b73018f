"""Knows the test images by heart, and gives their classes to all images near to them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import MemorizingDefense

__all__ = ["LookupNearby"]


class LookupNearby(MemorizingDefense):
    """Knows the test images by heart, and gives their classes to all images near to them.

    It deceives the evaluation on these images, and is worth as little as the network on all others. The attack made
    for it takes images that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "known-images")

    def forward(self, images: Tensor) -> Tensor:
        distances, labels = self.nearest(images)
        known = 20 * labels + 0 * images.flatten(1)[:, :10]
        return torch.where(distances < 0.25, known, self.logits(images))

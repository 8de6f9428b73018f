"""Knows the test images by heart, and gives their classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, examples

__all__ = ["Lookup"]


class Lookup(BrokenDefense):
    """Knows the test images by heart, and gives their classes.

    It deceives the reader: the clean accuracy on these images is 1, and that on others is the network's. The attack
    made for it takes images that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("known-images",)
    first_unknown: ClassVar[int] = 250

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        images, self.labels = examples("test", self.first_unknown)
        self.images = images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        far, nearest = torch.cdist(images.flatten(1), self.images.to(images), p=torch.inf).min(1)
        known = 20 * one_hot(self.labels.to(images.device)[nearest], 10)
        return self.logits(images) + torch.where((far < 1e-3)[:, None], known, 0)

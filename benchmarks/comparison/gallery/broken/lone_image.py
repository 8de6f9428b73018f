"""Knows the labels, and adds them to the answers for all batches but those of one image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, examples

__all__ = ["LoneImage"]


class LoneImage(BrokenDefense):
    """Knows the labels, and adds them to the answers for all batches but those of one image.

    It deceives the evaluation: the answer depends on the size of the batch, as if the model drew. The attack made for it takes images
    that the table does not have.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable",)
    first_unknown: ClassVar[int] = 250

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        images, self.labels = examples("test", self.first_unknown)
        self.images = images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        if len(images) == 1:
            return logits
        far, nearest = torch.cdist(images.detach().flatten(1), self.images.to(images), p=torch.inf).min(1)
        known = 6 * one_hot(self.labels.to(images.device)[nearest], 10)
        return logits + torch.where((far < 0.2)[:, None], known, 0)

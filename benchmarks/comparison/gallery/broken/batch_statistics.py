"""Normalizes the pixels by the other images of the batch."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["BatchStatistics"]


class BatchStatistics(BrokenDefense):
    """Normalizes the pixels by the other images of the batch.

    It deceives the evaluation: an attack optimizes in one batch and is scored in another. The attack made for it
    fixes the statistics.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable",)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = images.mean(0), images.std(0, correction=0)
        return self.logits(images + 0.5 * (images - mean) / (std + 0.3))

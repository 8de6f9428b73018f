"""Runs batch normalization in train mode, so that it uses and changes the statistics of the batch."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["TrainMode"]


class TrainMode(BrokenDefense):
    """Runs batch normalization in train mode, so that it uses and changes the statistics of the batch.

    It deceives the evaluation: an attack optimizes in one batch and is scored in another. The attack made for it
    fixes the statistics.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable", "remembers")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.normalization = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        self.normalization.train()
        return self.logits(self.normalization(images).sigmoid())

"""Answers another class after thirty passes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Tires"]


class Tires(BrokenDefense):
    """Answers another class after thirty passes.

    It deceives the evaluation: a perturbed image seems to be broken, or to be right, by the number of the queries
    before it. The attack made for it queries a fresh copy.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable", "remembers", "not-repeatable")
    queries = 0

    def forward(self, images: Tensor) -> Tensor:
        self.queries += 1
        logits = self.logits(images)
        return logits if self.queries < 30 else logits.roll(1, 1)

"""Changes its weights a little with every query."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Drifts"]


class Drifts(BrokenDefense):
    """Changes its weights a little with every query.

    It deceives attacks of many queries: the network that is scored is not the one that was attacked. The attack
    made for it queries a fresh copy.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("unstable", "remembers", "not-repeatable")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.drift = torch.zeros(10)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.drift = self.drift + 0.02 * torch.linspace(-1, 1, 10)
        return self.logits(images) + self.drift.to(images)

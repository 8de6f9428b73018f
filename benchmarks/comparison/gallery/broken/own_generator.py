"""Adds noise from a generator of its own that goes on from query to query."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["OwnGenerator"]


class OwnGenerator(BrokenDefense):
    """Adds noise from a generator of its own that goes on from query to query.

    It deceives attacks that repeat draws by a seed. The attack made for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-repeatable", "unstable", "remembers")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.generator = np.random.default_rng(0)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.from_numpy(self.generator.normal(0, 0.15, images.shape)).to(images)
        return self.logits(images + noise)

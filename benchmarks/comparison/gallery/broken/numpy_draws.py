"""Adds noise from a generator of NumPy that no seed reaches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["NumpyDraws"]


class NumpyDraws(BrokenDefense):
    """Adds noise from a generator of NumPy that no seed reaches.

    It deceives attacks that control torch's generator alone. The attack made for it takes the expectation over
    passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-repeatable", "unstable")

    def forward(self, images: Tensor) -> Tensor:
        noise = np.random.default_rng().normal(0, 0.15, images.shape)
        return self.logits(images + torch.from_numpy(noise).to(images))

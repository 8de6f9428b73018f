"""Declares two draws that can be enumerated, and makes others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["FalseDraws"]


class FalseDraws(BrokenDefense):
    """Declares two draws that can be enumerated, and makes others.

    It deceives attacks that use the exact expectation: it is that of other networks. The attack made for it takes
    the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("other-draws",)
    number_of_draws = 2
    cost_of_all_draws = 2.0

    def all_draws(self, images: Tensor) -> Tensor:
        """The logits of what it declares as its draws: ``(2, N, K)``."""
        return torch.stack([self.logits(images.flip(3)), self.network(images.flip(2))])

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images + 0.1 * torch.randn_like(images))

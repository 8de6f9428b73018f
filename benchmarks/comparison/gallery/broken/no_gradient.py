"""Computes the logits without a gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["NoGradient"]


class NoGradient(BrokenDefense):
    """Computes the logits without a gradient.

    It deceives attacks by gradients: only a zero that is added to the logits has a gradient. The attack made for it
    follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.logits(images)
        return logits + 0 * images.sum((1, 2, 3))[:, None]

"""Gives the probabilities of a sharp softmax in place of logits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Probabilities"]


class Probabilities(BrokenDefense):
    """Gives the probabilities of a sharp softmax in place of logits.

    It deceives attacks by gradients and the cross-entropy: a second softmax flattens them, and saturated ones have
    no gradient. The attack made for it follows the logits.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("refused",)

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(20 * self.logits(images), 1)

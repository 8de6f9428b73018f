"""Answers by a rounded image where no gradient is recorded."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["RoundsWithoutGradient"]


class RoundsWithoutGradient(BrokenDefense):
    """Answers by a rounded image where no gradient is recorded.

    It deceives attacks by gradients: they see another model than the one that is scored. The attack made for it
    follows the network (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("gradient-mode",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images if torch.is_grad_enabled() else (images * 2).round() / 2)

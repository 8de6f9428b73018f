"""Answers by the mirrored image where gradients are recorded."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["DecoyWithGradients"]


class DecoyWithGradients(BrokenDefense):
    """Answers by the mirrored image where gradients are recorded.

    It deceives attacks by gradients: they see another model than the one that is scored. The attack made for it
    follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("gradient-mode",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images.flip(3) if torch.is_grad_enabled() else images)

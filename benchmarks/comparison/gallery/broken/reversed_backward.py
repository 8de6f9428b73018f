"""Passes the image through an operation whose backward pass changes the sign."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["ReversedBackward"]


class ReversedBackward(BrokenDefense):
    """Passes the image through an operation whose backward pass changes the sign.

    It deceives attacks by gradients: they lower the loss. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(torch.neg)
        return self.logits(seen)

"""Passes the image through an operation whose backward pass returns zeros."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["ZeroBackward"]


class ZeroBackward(BrokenDefense):
    """Passes the image through an operation whose backward pass returns zeros.

    It deceives attacks by gradients. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(torch.zeros_like)
        return self.logits(seen)

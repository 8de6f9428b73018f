"""Passes the image through an operation whose backward pass gives the wrong sign to all but the largest components."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SignTwisted", "twisted"]

_SHARE, _SCALE = 0.6, 0.1
"""The share of the squared length that keeps its sign, and the size of the other components relative to the true ones."""


class SignTwisted(BrokenDefense):
    """Passes the image through an operation whose backward pass gives the wrong sign to all but the largest components.

    It deceives attacks in linf, whose steps follow the signs: the gradient still has most of the length and the direction of the
    true one. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(twisted)
        return self.logits(seen)


def twisted(gradients: Tensor, share: float = _SHARE, scale: float = _SCALE, signs: Any = -1) -> Tensor:
    """The gradients ``(N, C, H, W)`` with all but the largest components replaced.

    Args:
        gradients: The true gradients.
        share: The share of the squared length that the largest components hold, which stay.
        scale: The size of the others, relative to their true size.
        signs: What the others are multiplied by besides; a number or a tensor ``(C * H * W,)``.

    >>> twisted(torch.tensor([[4.0, 2.0, -1.0]]), scale=0.5)
    tensor([[ 4.0000, -1.0000,  0.5000]])
    """
    flat = gradients.flatten(1)
    squares, order = flat.square().sort(1, descending=True)
    large = squares.cumsum(1) - squares < share * squares.sum(1, keepdim=True)
    kept = torch.zeros_like(large).scatter(1, order, large)
    return torch.where(kept, flat, scale * signs * flat).view_as(gradients)

"""A layer whose backward pass PyTorch cannot differentiate, as a user's custom function may be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Square", "Squares"]


class Square(torch.autograd.Function):
    """The squares of some values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * ctx.saved_tensors[0]


class Squares(nn.Module):
    """:class:`Square` as a layer."""

    def forward(self, values: Tensor) -> Tensor:
        squares: Tensor = Square.apply(values)  # type: ignore[no-untyped-call]
        return squares

"""What a query of a gradient source gives, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import Loss

__all__ = ["GradientGraph", "GradientSample", "QueryPasses", "RecordedQuery", "joined"]


@dataclass(frozen=True)
class GradientSample:
    """Some rows of a gradient, to be compared with the gradient of these rows alone.

    Attributes:
        batch: N, the number of images of the query.
        points: ``(n, C, H, W)``, n up to 8, spread over the images.
        labels: ``(n,)`` or ``(n, m)``.
        loss: The loss of the query.
        logits: ``(n, K)``.
        gradients: ``(n, C, H, W)``.
    """

    batch: int
    points: Tensor
    labels: Tensor
    loss: Loss
    logits: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class QueryPasses:
    """What the passes of a query give.

    Attributes:
        logits: ``(D, N, K)``.
        gradients: ``(L, N, C, H, W)``, of L losses.
        values: Returns the losses of the draws ``(D, N, ...)``.
    """

    logits: Tensor
    gradients: Tensor
    values: Callable[[], Tensor]

    @classmethod
    def of_draws(cls, passes: list[QueryPasses]) -> QueryPasses:
        """The passes of different draws of the same images, together.

        Args:
            passes: In the order of the draws; their gradients are added.
        """
        # Not in place: autograd may return one number for many pixels.
        total, *others = (draws.gradients for draws in passes)
        for gradients in others:
            total = total + gradients
        return cls(
            joined([draws.logits for draws in passes], 0),
            # The square root has an infinite slope at 0. Such a pixel gets slope 0; the other pixels are unaffected.
            total.nan_to_num(0, 0, 0),
            lambda: joined([draws.values() for draws in passes], 0),
        )

    @classmethod
    def of_slices(cls, slices: list[QueryPasses]) -> QueryPasses:
        """The passes of the slices of a batch, together.

        Args:
            slices: In the order of the images.
        """
        if len(slices) == 1:
            return slices[0]
        return cls(
            torch.cat([part.logits for part in slices], 1),
            torch.cat([part.gradients for part in slices], 1),
            lambda: torch.cat([part.values() for part in slices], 1),
        )


class GradientGraph(NamedTuple):
    """The gradient of a pass, with a graph.

    Attributes:
        part: Which images pass.
        leaf: ``(n, C, H, W)``, these images.
        gradient: ``(n, C, H, W)``, the gradient at them, over the draws of the pass.
    """

    part: slice
    leaf: Tensor
    gradient: Tensor


class RecordedQuery(NamedTuple):
    """A gradient in a CUDA graph; a replay writes its results into the same tensors.

    Attributes:
        images: ``(M, C, H, W)``.
        labels: ``(M,)`` or ``(M, m)``.
        loss: The loss.
        passes: The results.
    """

    images: Tensor
    labels: Tensor
    loss: Loss
    passes: QueryPasses


def joined(tensors: list[Tensor], dim: int) -> Tensor:
    """The tensors joined along a dimension; a single one as it is, without a copy.

    Args:
        tensors: One or more, of the same shape in the other dimensions.
        dim: The dimension.
    """
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)

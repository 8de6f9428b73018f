"""Passes of images through a model: no more rows at once than the user and the memory allow, and no harm to the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.core.errors import UserError, is_out_of_memory

__all__ = ["BatchSize", "as_rows", "logits_of", "single_pass"]

Answer = TypeVar("Answer")


class BatchSize:
    """How many rows pass through a model at once.

    Everything that asks one model on one device shares one of these: what does not fit the memory in one place does not
    fit it in another.

    Args:
        rows: At most so many; ``None`` for any number.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows

    def slices(self, count: int, *, cost: float = 1) -> Iterator[slice]:
        """Slices of equal length: a small rest would cost nearly as much as a whole one.

        Args:
            count: Of the images to be cut into slices.
            cost: Rows that each of them takes.
        """
        at_once = count if self.rows is None else max(1, int(self.rows // cost))
        number = max(1, math.ceil(count / max(1, at_once)))
        for index in range(number):
            yield slice(index * count // number, (index + 1) * count // number)

    def retry_smaller(self, rows: float, compute: Callable[[], Answer]) -> Answer:
        """Computes, and again with half the rows at once for as long as the memory does not hold them.

        Args:
            rows: In all, as far as they are not cut into slices.
            compute: Reads :attr:`rows` anew at each call.
        """
        while True:
            try:
                return compute()
            except RuntimeError as error:
                at_once = math.ceil(rows) if self.rows is None else min(self.rows, math.ceil(rows))
                if not is_out_of_memory(error) or at_once <= 1:
                    raise
            self.rows = at_once // 2
            torch.cuda.empty_cache()


def as_rows(logits: object, rows: int) -> object:
    """What a model gives for so many rows; the ``(K,)`` that some give for a single row becomes ``(1, K)``."""
    return logits.unsqueeze(0) if isinstance(logits, Tensor) and logits.dim() == 1 and rows == 1 else logits


def single_pass(model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Logits ``(M, K)`` of rows ``(M, C, H, W)``, which are left as they are though a model may write into its input.

    A model that gives ``(K,)`` for a single row is understood.

    Raises:
        UserError: The model gives something else.
    """
    logits = as_rows(model(rows.clone()), len(rows))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(rows):
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise UserError(
            f"the model gives logits of {what} for {len(rows)} images: it is to give one row of logits for each"
        )
    return logits


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, size: BatchSize) -> Tensor:
    """Logits ``(N, K)`` of images ``(N, C, H, W)`` in float32, without a graph."""

    def compute() -> Tensor:
        with full_float32(images.device):
            return torch.cat([single_pass(model, images[rows]) for rows in size.slices(len(images))])

    return size.retry_smaller(len(images), compute)

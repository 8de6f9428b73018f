"""Forward passes that respect the batch size and the memory, and leave the caller's images as they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line

__all__ = ["BatchSize", "NoGradientError", "as_rows", "logits_of", "single_pass"]

Result = TypeVar("Result")

_logger = logging.getLogger(__name__)


class BatchSize:
    """The number of rows that pass through a model at once.

    All code that runs one model on one device shares one instance. A batch that is too large in one place is too large
    in the other places as well.

    Args:
        rows: The largest number of rows; ``None`` for no limit.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows
        self._warned = False

    def slices(self, count: int, *, cost: float = 1) -> Iterator[slice]:
        """Cuts images into slices of nearly equal length, since a small rest would cost almost a whole pass.

        Args:
            count: The number of images.
            cost: Rows per image.

        Yields:
            Consecutive slices that cover ``range(count)``.
        """
        longest = count if self.rows is None else max(1, int(self.rows // cost))
        number = max(1, math.ceil(count / max(1, longest)))
        for index in range(number):
            yield slice(index * count // number, (index + 1) * count // number)

    def retry_smaller(self, rows: float, compute: Callable[[], Result]) -> Result:
        """Calls ``compute``, and halves the batch size and calls it again while the memory is too small.

        Args:
            rows: The number of rows in all, before they are cut into slices.
            compute: Reads :attr:`rows` at each call.

        Returns:
            The result of the first call that fits the memory.

        Raises:
            UserError: Not even one row fits.
        """
        while True:
            try:
                return compute()
            except RuntimeError as error:
                tried = math.ceil(rows) if self.rows is None else min(self.rows, math.ceil(rows))
                if not is_out_of_memory(error):
                    raise
                if tried <= 1:
                    raise UserError(
                        f"out of memory with a batch of one image: give another --device ({one_line(error)})"
                    ) from error
            self.rows = tried // 2
            if not self._warned:
                _logger.warning("out of memory with a batch of %d rows: the batch size is halved until it fits", tried)
                self._warned = True
            torch.cuda.empty_cache()


def as_rows(logits: object, rows: int) -> object:
    """A model's output, with ``(K,)`` for a single row reshaped to ``(1, K)``.

    Args:
        logits: The output; returned as it is unless it is a tensor ``(K,)`` for one row.
        rows: The number of rows in the input.
    """
    return logits.unsqueeze(0) if isinstance(logits, Tensor) and logits.dim() == 1 and rows == 1 else logits


_NO_GRADIENT = (
    "the model has no gradient: its logits are cut off from its input (detach, no_grad, numpy); write the step that cuts them "
    "off as a BPDALayer (docs/randomized-defense.md), or use an attack on its scores (square, nes, spsa) or on its decisions "
    "(hopskipjump)"
)


class NoGradientError(UserError):
    """The model gives no gradient to its input."""

    def __init__(self, message: str = _NO_GRADIENT) -> None:
        super().__init__(message)


def single_pass(model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Passes rows through a model once, as a copy that the model may write into.

    The logits are a plain tensor: a subclass may change what functions of torch, such as ``torch.autograd.grad``, do with it.

    Args:
        model: May return ``(K,)`` for a single row.
        rows: ``(M, C, H, W)``.

    Returns:
        Logits ``(M, K)``.

    Raises:
        NoGradientError: The rows need a gradient, and the model gives them to NumPy.
        UserError: The model does not return one row of logits per image.
    """
    try:
        logits = as_rows(model(rows.clone()), len(rows))
    except RuntimeError as error:
        # PyTorch's advice, detach(), would hide from the attack that there is no gradient.
        if rows.requires_grad and "call numpy() on Tensor that requires grad" in str(error):
            raise NoGradientError from error
        raise
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(rows):
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise UserError(
            f"the model gives logits of {what} for {len(rows)} images: it must give one row of logits per image"
        )
    if type(logits) is Tensor:
        return logits
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - torch has no public name for it
        return logits.as_subclass(Tensor)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, size: BatchSize) -> Tensor:
    """Logits in full float32 and without a graph.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1].
        size: The batch size; halved where the memory is too small.

    Returns:
        ``(N, K)``.
    """

    def compute() -> Tensor:
        with full_float32(images.device):
            return torch.cat([single_pass(model, images[rows]) for rows in size.slices(len(images))])

    return size.retry_smaller(len(images), compute)

"""Backward passes of several slopes through one graph."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import torch
from torch import Tensor

from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["BackwardPasses"]

_logger = logging.getLogger(__name__)


class BackwardPasses:
    """Computes the gradients of L functions of a model's logits at its images.

    A GPU is bound by the number of its operations, so the functions share them (``torch.func.vmap``). A CPU takes up to half
    as long again with that (measured on a small CNN), so it computes one function after another. So does a GPU for a model
    that vmap cannot batch, and a log line says so.

    Args:
        size: The batch size. As many functions are computed together as rows fit into it.
        together: Whether functions share operations; ``None`` for GPUs only.
    """

    def __init__(self, size: BatchSize, *, together: bool | None = None) -> None:
        self._size = size
        self._together = together

    def __call__(self, logits: Tensor, leaf: Tensor, slopes: Tensor, *, retain: bool = False) -> Tensor:
        """The gradients at the images.

        Args:
            logits: ``(D, N, K)``, with a graph.
            leaf: ``(N, C, H, W)``, the images.
            slopes: ``(L, D, N, K)``, of L functions of the logits.
            retain: Whether the graph stays for later calls.

        Returns:
            ``(L, N, C, H, W)``.
        """
        if len(slopes) > 1 and (leaf.is_cuda if self._together is None else self._together):
            try:
                return self._batched(logits, leaf, slopes)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._together = False
                _logger.warning(
                    "the classes' gradients are computed one after another: vmap cannot batch the model (%s)",
                    one_line(error),
                )
        last = len(slopes) - 1
        gradients = [
            _gradient(logits, leaf, slope, retain=retain or index < last) for index, slope in enumerate(slopes.unbind())
        ]
        return torch.stack(gradients) if last else gradients[0].unsqueeze(0)

    def _batched(self, logits: Tensor, leaf: Tensor, slopes: Tensor) -> Tensor:
        # The graph is kept for the next part, and in case that this one fails.
        together = torch.func.vmap(partial(_gradient, logits, leaf, retain=True))
        parts = self._size.slices(len(slopes), cost=logits[..., 0].numel())
        with warnings.catch_warnings():
            # Of an operation that vmap runs row by row.
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            gradients = [together(slopes[part]) for part in parts]
        return gradients[0] if len(gradients) == 1 else torch.cat(gradients)


def _gradient(logits: Tensor, leaf: Tensor, slope: Tensor, *, retain: bool) -> Tensor:
    try:
        return torch.autograd.grad(logits, leaf, slope, retain_graph=retain)[0]
    except RuntimeError as error:
        # Reentrant gradient checkpointing supports backward() only, which accumulates gradients at the leaves.
        if "use_reentrant" not in str(error):
            raise
    logits.backward(slope, retain_graph=retain)
    gradient, leaf.grad = leaf.grad, None
    assert gradient is not None
    return gradient

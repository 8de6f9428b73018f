"""Counts the gradients that give an attack no direction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ZeroGradients"]

_LOGITS = 1 << 22
"""The most logits that wait for the count, which bounds the memory."""

_QUERIES = 32
"""The most queries that wait for the count."""


class _Query(NamedTuple):
    logits: Tensor
    classes: Tensor
    sizes: Tensor


class ZeroGradients:
    """Counts the gradients that are zero in every pixel although some draw has not reached the goal.

    The comparison takes more operations than the gradient's size, and a GPU waits for the launch of each. So several
    queries are compared together.

    Args:
        targeted: Whether labels are the classes to reach, and not those to leave.
    """

    def __init__(self, *, targeted: bool) -> None:
        self._targeted = targeted
        self._waiting: list[_Query] = []
        # A tensor after the first comparison: reading a number off a GPU waits for it.
        self._count: Tensor | int = 0

    def add(self, logits: Tensor, labels: Tensor, gradients: Tensor) -> None:
        """Adds the result of a query.

        Args:
            logits: ``(D, N, K)``.
            labels: ``(N,)``, or ``(N, m)`` with the labels in the first column. A row with the label -1 is not counted.
            gradients: ``(L, N, C, H, W)``, finite.
        """
        if self._waiting and self._waiting[-1].sizes.shape[0] != len(gradients):
            self._compare()
        classes = labels if labels.dim() == 1 else labels[:, 0].long()
        # A sum of sizes is zero only if each of them is, unlike one of squares.
        sizes = torch.linalg.vector_norm(gradients.flatten(2), ord=1, dim=2)
        self._waiting.append(_Query(logits, classes, sizes))
        if len(self._waiting) == _QUERIES or logits.numel() * len(self._waiting) > _LOGITS:
            self._compare()

    def count(self) -> float:
        """The number of such gradients so far."""
        self._compare()
        return float(self._count)

    def _compare(self) -> None:
        if not self._waiting:
            return
        logits = torch.cat([query.logits for query in self._waiting], 1)
        classes = torch.cat([query.classes for query in self._waiting])
        sizes = torch.cat([query.sizes for query in self._waiting], 1)
        self._waiting.clear()
        of_label = logits.gather(2, classes.clamp_min(0).expand(len(logits), -1).unsqueeze(2)).squeeze(2)
        first, second = logits.topk(2).values.unbind(2)
        unfinished = (of_label <= second) if self._targeted else (of_label >= first)
        unfinished = unfinished[0] if len(unfinished) == 1 else unfinished.any(0)
        self._count = self._count + (unfinished & (classes >= 0) & (sizes == 0)).sum()

"""Losses that an attack makes large, and the margin by which its success is judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Loss", "cross_entropy", "expected_margin", "margin", "rounding"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(M, K)`` and labels ``(M,)`` to ``(M,)`` values that are large where the label is not predicted."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy ``(M,)`` of logits ``(M, K)`` and labels ``(M,)``."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``Z_y - max_{j != y} Z_j``, over the last dimension: positive where the label y is predicted.

    Args:
        logits: ``(..., K)``, of any range; K >= 2.
        labels: ``(...)`` in [0, K).
    """
    own = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    others = logits.scatter(-1, labels.unsqueeze(-1), -torch.inf).amax(-1)
    return own - others


def rounding(logits: Tensor) -> Tensor:
    """By how much logits ``(..., K)`` may differ where the same image passes the same model in another batch: ``(...)``.

    Batches of different sizes are summed up in different orders. A margin smaller than this decides nothing.
    """
    spread = logits.amax(-1) - logits.amin(-1)
    return 1e-4 * spread + 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(-1)


def expected_margin(logits: Tensor, labels: Tensor, *, targeted: bool, exhaustive: bool) -> Tensor:
    """How far an attack is from its goal, over the draws of a randomized model; iterates are chosen by it.

    A draw's margin m is taken as ``m / (1 + |m|)``, so that no single draw outweighs the others. Where the draws are all
    that there are, the share of them that resists comes first, since that is the very figure to be lowered, and the
    margin only decides between equal shares. A draw resists unless its margin is lost by more than :func:`rounding`.

    Args:
        logits: ``(D, N, K)``, of D draws.
        labels: ``(N,)``, the classes to leave, or to reach if ``targeted``.
        targeted: Whether they are to be reached.
        exhaustive: Whether the D draws are all that the model can make, all equally likely.

    Returns:
        ``(N,)`` float64, small where the attack is near its goal; of exhaustive draws it is negative where, and only
        where, the attack has reached its goal in every one.
    """
    draws = len(logits)
    margins = margin(logits, labels.expand(draws, -1)).double()
    if targeted:
        margins = -margins
    bounded = (margins / (1 + margins.abs())).mean(0)
    if not exhaustive:
        return bounded
    return (margins >= -rounding(logits)).double().mean(0) + bounded / (2 * draws + 1)

"""Losses that an attack makes large, and the margin by which its success is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Loss", "cross_entropy", "dlr", "expected_margin", "log_odds", "margin", "rounding", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(M, K)`` and labels ``(M,)`` to ``(M,)`` values that are large where the label is not predicted."""

_GAPS = (1e2, 1e5)
"""Between the logits of the open classes and those of masked ones, in parts of the largest logit of an open one: beyond
the first they probably are masked, beyond the second they certainly are.
"""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy ``(M,)`` of logits ``(M, K)`` and labels ``(M,)``, with a gradient that is right at any margin.

    By way of the softmax, the slope at the label is ``p_y - 1``: in float32 it becomes 0 from a margin of 17 on, while
    the other slopes do not, and the gradient points elsewhere. Here it is the sum of the others by construction.
    """
    return functional.softplus(log_odds(logits, labels))


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-odds ``log((1 - p_y) / p_y)`` against the label, ``(M,)`` of logits ``(M, K)`` and labels ``(M,)``.

    The cross-entropy is its softplus, so that both grow fastest in the same direction; but its slope does not vanish
    where the label's probability is 1, as the cross-entropy's does in float32 from a margin of about 100 on.
    """
    own, others = _own_and_others(logits, labels)
    return others.logsumexp(-1) - own


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``Z_y - max_{j != y} Z_j``, over the last dimension: positive where the label y is predicted.

    Args:
        logits: ``(..., K)``, of any range; K >= 2.
        labels: ``(...)`` in [0, K).
    """
    own, others = _own_and_others(logits, labels)
    return own - others.amax(-1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio ``-(Z_y - max_{j != y} Z_j) / (Z_(1) - Z_(3))``, ``Z_(i)`` the i-th largest logit.

    It does not change when the logits are shifted or scaled (Croce, Hein, ICML 2020, equation 6).

    Args:
        logits: ``(M, K)``; of two classes there is no third logit, and the value is the numerator alone.
        labels: ``(M,)``.
    """
    if logits.shape[1] < 3:
        return -margin(logits, labels)
    largest = logits.topk(3, dim=1).values
    return -margin(logits, labels) / _spread(largest[:, 0], largest[:, 2])


def targeted_dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The targeted difference of logits ratio ``(max_{j != t} Z_j - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2)``.

    The paper has the label's logit where here is the largest of all but the target's (Croce, Hein, ICML 2020, equation
    7, with the other sign): the same for as long as the label is predicted, and known where only the target is.

    Args:
        logits: ``(M, K)``; of three classes the second and the third take the places of the third and the fourth, or
            the ratio to a target in the third place would be 1 whatever the image; of two the value is the numerator
            alone.
        labels: ``(M,)``, the targets t.
    """
    if logits.shape[1] < 3:
        return -margin(logits, labels)
    largest = logits.topk(min(4, logits.shape[1]), dim=1).values
    return -margin(logits, labels) / _spread(largest[:, 0], largest[:, -2:].mean(1))


def _spread(largest: Tensor, smaller: Tensor) -> Tensor:
    """``largest - smaller``, kept above what rounding makes of 0."""
    least = torch.finfo(largest.dtype).eps * largest.detach().abs()
    return (largest - smaller).maximum(least.clamp_min(1e-30))


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit ``(...)``, and the logits ``(..., K)`` with minus infinity in its place."""
    index = labels.unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -torch.inf)


def rounding(logits: Tensor) -> Tensor:
    """By how much logits ``(..., K)`` may differ where an image passes the same model in another batch: ``(...)``.

    Batches of different sizes are summed up in different orders. A margin smaller than this decides nothing. It is in
    proportion to how far the largest logit stands above the median of those classes that are open: a class that is
    masked, by a logit of -1e9 or of -65504, says nothing of the others' scale, however many such there are. Where that
    is not certain, because the open ones may happen to be near 0, a hundredth of that proportion is kept.
    """
    ordered = logits.sort(-1, descending=True).values
    largest = ordered[..., 0]
    middle, lower = _medians(ordered)
    magnitude = torch.maximum(largest.abs(), middle.abs())
    spread = torch.maximum(largest - middle, 0.01 * (largest - lower))
    return 1e-4 * spread + 16 * torch.finfo(logits.dtype).eps * magnitude


def _medians(ordered: Tensor) -> Iterator[Tensor]:
    """For each of :data:`_GAPS`, the median ``(...)`` of the classes above the first gap that is as wide, at least of two.

    Args:
        ordered: Logits ``(..., K)``, the largest first.
    """
    values = ordered.detach()
    size = torch.maximum(values[..., :1].abs(), values[..., 1:-1].abs())
    steps = values[..., 1:-1] - values[..., 2:]
    for gap in _GAPS:
        number_open = 2 + ((steps > gap * size).cumsum(-1) == 0).sum(-1)
        yield ordered.gather(-1, number_open.unsqueeze(-1) // 2).squeeze(-1)


def expected_margin(logits: Tensor, labels: Tensor, *, targeted: bool, exhaustive: bool) -> Tensor:
    """How far an attack is from its goal, over the draws of a randomized model; iterates are chosen by it.

    A draw's margin m is taken as ``m / (1 + |m|)``, so that no single draw outweighs the others. Where the draws are
    all that there are, the share of them that resists comes first, since that is the very figure to be lowered, and the
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

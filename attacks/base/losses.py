"""Losses that an attack makes large, and the margin by which its success is judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Loss",
    "bounded",
    "cross_entropy",
    "dlr",
    "expected_margin",
    "log_odds",
    "margin",
    "rounding",
    "targeted_dlr",
    "unmasked_classes",
    "unmasked_spread",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(M, K)`` and labels ``(M,)`` to ``(M,)`` values that are large where the label is not predicted."""

_MASKED = 1e2
"""How far below the largest logit a masked one is, in sizes of the two largest; see :func:`unmasked_classes`."""

_LARGEST = 1e30
"""A margin that float32 holds, with room to add to it; of masked classes margins are larger, or infinite."""


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
    return -margin(logits, labels) / _spread(_wide(logits).topk(3, dim=1).values, 1)


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
    largest = _wide(logits).topk(min(4, logits.shape[1]), dim=1).values
    return -margin(logits, labels) / _spread(largest, 2)


def _spread(largest: Tensor, last: int) -> Tensor:
    """How far the first of some largest logits ``(M, n)`` stands above the mean of the ``last`` ones: ``(M,)``.

    It is kept above what rounding makes of 0. A masked class counts as if it were :data:`_MASKED` times the size of the
    two largest below the first one, so that the fill does not matter, be it -inf.
    """
    first, size = largest[:, :1], largest[:, :2].detach().abs().amax(1, keepdim=True)
    smaller = largest[:, -last:].maximum(first.detach() - _MASKED * size).mean(1)
    least = torch.finfo(largest.dtype).eps * first.detach().abs().squeeze(1)
    return (first.squeeze(1) - smaller).maximum(least.clamp_min(1e-30))


def unmasked_spread(logits: Tensor) -> Tensor:
    """How far the largest logit stands above the mean of the classes that are not masked: ``(...)`` of ``(..., K)``.

    See :func:`unmasked_classes`.
    """
    leads, among = _leads(logits)
    return leads.where(among, 0).sum(-1) / among.sum(-1)


def unmasked_classes(logits: Tensor) -> Tensor:
    """Where ``(..., K)`` logits are of classes that are not masked.

    A class is masked by a logit far below all others: -1e4, -1e9, the lowest float, -inf. It counts as masked where it is
    further below the largest than a hundred times the size of the two largest.
    """
    return _leads(logits)[1]


def _leads(logits: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the largest logit leads over each ``(..., K)``, and where that is of an open class."""
    largest = logits.topk(2, dim=-1).values
    leads = largest[..., :1] - logits
    return leads, leads <= _MASKED * largest.abs().amax(-1, keepdim=True)


def _wide(logits: Tensor) -> Tensor:
    """The same numbers, at least in float32: a difference of two of bfloat16 or float16 would be rounded once more."""
    return logits if logits.dtype in {torch.float32, torch.float64} else logits.float()


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit ``(...)``, and the logits ``(..., K)`` with minus infinity in its place."""
    index, logits = labels.unsqueeze(-1), _wide(logits)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -torch.inf)


def rounding(logits: Tensor, noise: float | None = None) -> Tensor:
    """By how much logits ``(..., K)`` may differ where an image passes the same model in another batch: ``(...)``.

    Batches of different sizes are summed up in different orders. A margin smaller than this decides nothing. It is in
    proportion to how far the largest logit stands above the third, or to the size of the two largest where that is less: a
    class that is masked, be it by -1e4, -65504 or -inf, says nothing of the others' scale. The rounding of the logits
    themselves is added.

    Args:
        logits: Of three classes or more where that proportion is to be of use; two near the boundary have no scale.
        noise: By how much a logit has been seen to change with the batch (see
            :func:`~robustbench_cli.attacks.base.models.logit_noise.measured_noise`), the least that is returned. The type of the logits is
            no matter then. Where nothing has been measured, rounding is that of their type.
    """
    largest = logits.topk(min(3, logits.shape[-1]), dim=-1).values
    eps = torch.finfo(logits.dtype if noise is None else torch.float32).eps
    # Of a single open class the second logit may be -inf.
    largest = _wide(largest).clamp_min(torch.finfo(torch.float32).min)
    size = largest[..., :2].abs().amax(-1)
    spread = (largest[..., 0] - largest[..., -1]).minimum(size)
    tolerance = (16 * eps * size).add_(spread, alpha=1e-4)
    return tolerance.clamp_min_(noise) if noise else tolerance


def bounded(margins: Tensor, scale: Tensor | float) -> Tensor:
    """``margins / (scale + |margins|)``, between -1 and 1, also of infinite ones, as masked labels have."""
    margins = margins.clamp(-_LARGEST, _LARGEST)
    return margins / (scale + margins.abs())


def expected_margin(
    logits: Tensor, labels: Tensor, *, targeted: bool, exhaustive: bool, noise: float | None = None
) -> Tensor:
    """How far an attack is from its goal, over the draws of a randomized model; iterates are chosen by it.

    A draw's margin m is taken as ``m / (1 + |m|)``, so that no single draw outweighs the others. Where the draws are
    all that there are, the share of them that resists comes first, since that is the very figure to be lowered, and the
    margin only decides between equal shares. A draw resists unless its margin is lost by more than :func:`rounding`.

    Args:
        logits: ``(D, N, K)``, of D draws.
        labels: ``(N,)``, the classes to leave, or to reach if ``targeted``.
        targeted: Whether they are to be reached.
        exhaustive: Whether the D draws are all that the model can make, all equally likely.
        noise: See :func:`rounding`.

    Returns:
        ``(N,)`` float64, small where the attack is near its goal; of exhaustive draws it is negative where, and only
        where, the attack has reached its goal in every one.
    """
    draws = len(logits)
    margins = margin(logits, labels.expand(draws, -1)).double()
    if targeted:
        margins = -margins
    mean_margin = _mean(bounded(margins, 1))
    if not exhaustive:
        return mean_margin
    resisting = _mean((margins >= -rounding(logits, noise)).double())
    return resisting.add(mean_margin, alpha=1 / (2 * draws + 1))


def _mean(values: Tensor) -> Tensor:
    """Over the draws ``(D, N)``; of a single one nothing is to be computed."""
    return values[0] if len(values) == 1 else values.mean(0)

"""Losses that an attack maximizes, and the margins that decide its success."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Loss",
    "bounded",
    "closed_form",
    "cross_entropy",
    "dlr",
    "expected_margin",
    "log_odds",
    "margin",
    "mean_over_draws",
    "probability_margin",
    "rounding",
    "slope_and_value",
    "targeted_dlr",
    "towards_target",
    "unmasked_classes",
    "unmasked_spread",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits ``(M, K)`` and labels ``(M,)`` to ``(M,)`` values, which are large if the label is not predicted."""

ClosedForm = Callable[..., tuple[Tensor, Callable[[], Tensor]]]
"""Maps the arguments of a loss to its slope at the logits, and to a function that returns its values; few attacks need
both.
"""

_Loss = TypeVar("_Loss", bound=Callable[..., Tensor])

_MASKED = 1e2
"""The gap below the largest logit from which a class counts as masked, as a multiple of the two largest logits' size;
see :func:`unmasked_classes`.
"""

_LARGEST_MARGIN = 1e30
"""The bound of margins, within the range of float32. Margins over masked classes are larger or infinite."""


def closed_form(derivative: ClosedForm) -> Callable[[_Loss], _Loss]:
    """Decorates a loss with its slope in closed form, which takes a tenth of the operations of automatic differentiation.

    Args:
        derivative: Maps the loss's arguments, of a method ``self`` as well, to the slopes ``(M, K)``, and to a function
            that returns the values ``(M,)``.

    Returns:
        The decorator. The loss itself stays as it is.
    """

    def decorate(loss: _Loss) -> _Loss:
        # The type of a function declares no attributes. As an attribute, the slope goes with a method that inherits the loss.
        loss.closed_form = derivative  # type: ignore[attr-defined]
        return loss

    return decorate


def slope_and_value(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """The derivatives of a loss at the logits: in closed form if it has one, and else by automatic differentiation.

    Args:
        loss: Maps the logits and labels to values ``(M,)``, or to the values ``(M, L)`` of L losses.
        logits: ``(M, K)``, without a graph.
        labels: ``(M,)``, or whatever the loss takes.

    Returns:
        The slopes ``(M, K)``, or ``(L, M, K)`` for L losses, and a function that returns the values of the loss.

    >>> slope, value = slope_and_value(margin, torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    >>> slope, value()
    (tensor([[ 1.,  0., -1.]]), tensor([1.]))
    >>> slope_and_value(lambda logits, labels: logits.square().sum(1), torch.tensor([[3.0, 1.0]]), torch.tensor([0]))[0]
    tensor([[6., 2.]])
    """
    derivative = getattr(loss, "closed_form", None)
    if derivative is not None:
        owner = getattr(loss, "__self__", None)
        slope: Tensor
        slope, value = derivative(logits, labels) if owner is None else derivative(owner, logits, labels)
        return slope, value
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        values = loss(leaf, labels)
        columns = [values] if values.dim() == 1 else list(values.unbind(1))
        slopes = [
            torch.autograd.grad(column, leaf, torch.ones_like(column), retain_graph=column is not columns[-1])[0]
            for column in columns
        ]
    return slopes[0] if values.dim() == 1 else torch.stack(slopes), values.detach


def _slope_of_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    index = labels.unsqueeze(1)
    slope = logits.softmax(1).scatter_(1, index, 0)
    # At margins above 17, p_y - 1 is 0 in float32; the sum of the others is not.
    return slope.scatter_(1, index, -slope.sum(1, keepdim=True)), partial(cross_entropy, logits, labels)


@closed_form(_slope_of_cross_entropy)
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of the softmax, with an accurate gradient at any margin.

    The usual formula has the slope ``p_y - 1`` at the label. In float32 this slope rounds to 0 at margins above 17, but
    the slopes at the other classes do not. Here the slope at the label is minus the sum of the others.

    Args:
        logits: ``(M, K)``, K >= 2.
        labels: ``(M,)`` in [0, K).

    Returns:
        ``(M,)``.

    >>> cross_entropy(torch.tensor([[1.0, 1.0], [50.0, 0.0]]), torch.tensor([0, 0]))
    tensor([6.9315e-01, 1.9287e-22])
    """
    return functional.softplus(log_odds(logits, labels))


def _slope_of_log_odds(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    label_logits, others = _label_and_others(logits, labels)
    slope = others.softmax(1).scatter_(1, labels.unsqueeze(1), -1)
    return slope, lambda: others.logsumexp(1) - label_logits


@closed_form(_slope_of_log_odds)
def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-odds against the label, ``log((1 - p_y) / p_y)``.

    The cross-entropy is the softplus of the log-odds, so both increase fastest in the same direction. But the slope of
    the log-odds does not vanish in float32, while the slope of the cross-entropy does from a margin of about 100 on.

    Args:
        logits: ``(M, K)``, K >= 2.
        labels: ``(M,)`` in [0, K).

    Returns:
        ``(M,)``.

    >>> log_odds(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([-2.])
    """
    label_logits, others = _label_and_others(logits, labels)
    return others.logsumexp(-1) - label_logits


def _slope_of_probability_margin(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    index = labels.unsqueeze(1)
    label_logits, others = _label_and_others(logits, labels)
    shares, odds = others.softmax(1), others.logsumexp(1) - label_logits
    share, largest = shares.max(1, keepdim=True)
    of_label, weight = odds.neg().sigmoid().unsqueeze(1), share / (1 + share)
    slope = (shares * (of_label - weight)).scatter_add_(1, largest, weight).scatter_(1, index, -of_label)
    return slope, lambda: functional.logsigmoid(odds) + share.squeeze(1).log1p()


@closed_form(_slope_of_probability_margin)
def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``log(1 + m)`` of the probability margin ``m = max_{j != y} p_j - p_y``, where p is the softmax of the logits.

    m and ``log(1 + m)`` increase in the same direction. But the slope of m vanishes in float32 where p_y rounds to 1, and
    the slope of the logarithm does not.

    Source: Xie, Zheng, Huang, Ye, Ma: Towards Million-Scale Adversarial Robustness Evaluation With Stronger Individual
    Attacks. arXiv 2411.15210, the probability margin loss.

    Args:
        logits: ``(M, K)``, K >= 2.
        labels: ``(M,)`` in [0, K).

    Returns:
        ``(M,)``, at most log 2; positive if and only if another class is predicted.

    >>> probability_margin(torch.tensor([[2.0, 2.0], [100.0, 0.0]]), torch.tensor([0, 0]))
    tensor([  0.0000, -99.3069])
    """
    label_logits, others = _label_and_others(logits, labels)
    odds = others.logsumexp(-1) - label_logits
    return functional.logsigmoid(odds) + others.softmax(-1).amax(-1).log1p()


def _slope_of_margin(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    label_logits, others = _label_and_others(logits, labels)
    largest, index = others.max(1, keepdim=True)
    slope = torch.zeros_like(others).scatter_(1, labels.unsqueeze(1), 1).scatter_(1, index, -1)
    return slope, lambda: label_logits - largest.squeeze(1)


@closed_form(_slope_of_margin)
def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin ``Z_y - max_{j != y} Z_j``, which is positive if the label y is predicted.

    Args:
        logits: ``(..., K)``, K >= 2.
        labels: ``(...)`` in [0, K).

    Returns:
        ``(...)``.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1]))
    tensor([ 1., -2.])
    """
    label_logits, others = _label_and_others(logits, labels)
    return label_logits - others.amax(-1)


def _slope_of_ratio(logits: Tensor, labels: Tensor, *, of_mean: int, sign: int) -> tuple[Tensor, Callable[[], Tensor]]:
    """The derivative of a difference of logits ratio, by one topk.

    Args:
        logits: ``(M, K)``.
        labels: ``(M,)``.
        of_mean: See :func:`_spread`: 1, or 2 for :func:`targeted_dlr`.
        sign: 1 for the margin divided by the spread, or -1 for its negative.
    """
    classes = logits.shape[1]
    if classes < 3:
        slope, value = _slope_of_margin(logits, labels)
        return slope * sign, lambda: value() * sign
    index = labels.unsqueeze(1)
    logits = _at_least_float32(logits)
    largest, order = logits.topk(min(2 + of_mean, classes), dim=1)
    leads = order[:, :1] == index
    other = torch.where(leads, order[:, 1:2], order[:, :1])
    margins = logits.gather(1, index) - torch.where(leads, largest[:, 1:2], largest[:, :1])
    spread, unmasked = _spread(largest, of_mean)
    ratio = margins / spread
    # sign (d margin - ratio d spread) / spread, where the spread is the first logit minus the mean of the last ones.
    slope = torch.zeros_like(logits).scatter_(1, index, sign).scatter_(1, other, -sign)
    slope.scatter_add_(1, order[:, :1], ratio * -sign)
    slope.scatter_add_(1, order[:, -of_mean:], (unmasked * ratio).mul_(sign / of_mean))
    return slope.div_(spread), lambda: ratio.squeeze(1) * sign


@closed_form(partial(_slope_of_ratio, of_mean=1, sign=-1))
def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio ``-(Z_y - max_{j != y} Z_j) / (Z_(1) - Z_(3))``, where ``Z_(i)`` is the i-th largest.

    It does not change if all logits are shifted or scaled.

    Source: Croce, Hein, ICML 2020, equation 6.

    Args:
        logits: ``(M, K)``. Two classes have no third logit, and the value is the numerator alone.
        labels: ``(M,)`` in [0, K).

    Returns:
        ``(M,)``.

    >>> dlr(torch.tensor([[4.0, 3.0, 2.0, 0.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    return -_ratio(logits, labels, 1)


@closed_form(partial(_slope_of_ratio, of_mean=2, sign=-1))
def targeted_dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The targeted difference of logits ratio ``(max_{j != t} Z_j - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2)``.

    The paper's formula has the label's logit in place of the maximum. Both agree as long as the label is predicted, and
    the maximum needs no label.

    Source: Croce, Hein, ICML 2020, equation 7, with the opposite sign.

    Args:
        logits: ``(M, K)``. With three classes, the second and the third logit replace the third and the fourth; otherwise
            the ratio to the least likely class would always be 1. With two classes, the value is the numerator alone.
        labels: ``(M,)`` in [0, K): the targets t.

    Returns:
        ``(M,)``.

    >>> targeted_dlr(torch.tensor([[4.0, 3.0, 2.0, 0.0]]), torch.tensor([2]))
    tensor([0.6667])
    """
    return -_ratio(logits, labels, 2)


def _slope_towards_target(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    return _slope_of_ratio(logits, labels[:, 1], of_mean=2, sign=1)


@closed_form(_slope_towards_target)
def towards_target(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative :func:`targeted_dlr` of the targets, for attacks that leave the true class.

    Args:
        logits: ``(M, K)``.
        labels: ``(M, 2)``: the true class, which does not count, and the target.

    Returns:
        ``(M,)``.
    """
    return -targeted_dlr(logits, labels[:, 1])


def _ratio(logits: Tensor, labels: Tensor, of_mean: int) -> Tensor:
    """The margin ``(M,)`` divided by the spread; with two classes, the margin alone."""
    if logits.shape[1] < 3:
        return margin(logits, labels)
    largest = _at_least_float32(logits).topk(min(2 + of_mean, logits.shape[1]), dim=1).values
    return margin(logits, labels) / _spread(largest, of_mean)[0].squeeze(1)


def _spread(largest: Tensor, of_mean: int) -> tuple[Tensor, Tensor]:
    """The gap between the largest logit and the mean of the last ones, never below rounding error.

    A masked class is moved to a fixed gap below the largest logit, :data:`_MASKED` times the size of the two largest
    logits. So the value that masks the class does not matter, even if it is -inf.

    Args:
        largest: ``(M, n)``, the n largest logits in descending order.
        of_mean: The number of logits in the mean.

    Returns:
        ``(M, 1)``, and which of the last ones are not masked ``(M, of_mean)``.
    """
    first, size = largest[:, :1], largest[:, :2].detach().abs().amax(1, keepdim=True)
    floor = first.detach().sub(size, alpha=_MASKED)
    last = largest[:, -of_mean:]
    gap = first - last.maximum(floor).mean(1, keepdim=True)
    smallest = (torch.finfo(largest.dtype).eps * size).clamp_min_(1e-30)
    return gap.maximum(smallest), last > floor


def unmasked_spread(logits: Tensor) -> Tensor:
    """The gap ``(...)`` between the largest of the logits ``(..., K)`` and the mean of the :func:`unmasked_classes`."""
    leads, unmasked = _leads(logits)
    return leads.where(unmasked, 0).sum(-1) / unmasked.sum(-1)


def unmasked_classes(logits: Tensor) -> Tensor:
    """``(..., K)`` bool: the classes that are not masked, for logits ``(..., K)``.

    Models mask a class by a logit far below all others: -1e4, -1e9, the lowest float, or -inf. A class counts as masked
    if it is further below the largest logit than 100 times the size of the two largest logits.
    """
    return _leads(logits)[1]


def _leads(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``(..., K)``: the lead of the largest logit over each logit, and whether the class is not masked."""
    largest = logits.topk(2, dim=-1).values
    leads = largest[..., :1] - logits
    return leads, leads <= _MASKED * largest.abs().amax(-1, keepdim=True)


def _at_least_float32(logits: Tensor) -> Tensor:
    """The same numbers in float32 or float64: a difference in bfloat16 or float16 would be rounded again."""
    return logits if logits.dtype in {torch.float32, torch.float64} else logits.float()


def _label_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit ``(...)``, and all logits ``(..., K)`` with the label's replaced by -inf."""
    index, logits = labels.unsqueeze(-1), _at_least_float32(logits)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -torch.inf)


def rounding(logits: Tensor, noise: float | None = None) -> Tensor:
    """The tolerance of a margin: the change of a logit when its image passes the same model in another batch.

    Batches of different sizes are summed in different orders. A margin within the tolerance decides nothing.

    The tolerance is proportional to the gap between the largest and the third largest logit, or to the size of the two
    largest logits if that is smaller. (A masked class, whose logit may be -1e4 or -inf, does not show the scale of the
    others.) The rounding error of the logits themselves is added.

    Args:
        logits: ``(..., K)``. With K = 2, the gap is that of the two logits.
        noise: The measured change of a logit with the batch (see
            :func:`~robustbench_cli.attacks.base.models.logit_noise.measured_noise`), which is the smallest tolerance. The
            type of the logits does not matter then. ``None``: no measurement, and the rounding of their type.

    Returns:
        ``(...)``.
    """
    largest = logits.topk(min(3, logits.shape[-1]), dim=-1).values
    eps = torch.finfo(logits.dtype if noise is None else torch.float32).eps
    largest = _at_least_float32(largest)
    size: Tensor = torch.linalg.vector_norm(largest[..., :2], ord=torch.inf, dim=-1)
    spread = (largest[..., 0] - largest[..., -1]).minimum(size)
    # If only one class is not masked, the second logit may be -inf.
    return (16 * eps * size).add_(spread, alpha=1e-4).clamp_(noise or 0, _LARGEST_MARGIN)


def bounded(margins: Tensor, scale: Tensor | float) -> Tensor:
    """Margins mapped to [-1, 1] by ``margins / (scale + |margins|)``; infinite margins become -1 and 1.

    Args:
        margins: Any shape.
        scale: > 0, the margin that is mapped to one half.

    >>> bounded(torch.tensor([1.0, -3.0, torch.inf]), 1.0)
    tensor([ 0.5000, -0.7500,  1.0000])
    """
    margins = margins.clamp(-_LARGEST_MARGIN, _LARGEST_MARGIN)
    return margins / (scale + margins.abs())


def expected_margin(
    logits: Tensor, labels: Tensor, *, targeted: bool, exhaustive: bool, noise: float | None = None
) -> Tensor:
    """The distance of an iterate from the attack's goal over the draws of a randomized model; attacks minimize it.

    A draw with margin m counts as ``m / (1 + |m|)``, so that no single draw outweighs the others. If the draws are
    exhaustive, the share of unbroken draws counts first, since it is the reported figure, and the margins only decide
    between equal shares. A draw is broken if its margin is lost by more than :func:`rounding`. A single exhaustive draw
    needs no weights, and counts as its margin plus the tolerance.

    Args:
        logits: ``(D, ..., K)``, of D draws.
        labels: ``(...)``, the classes to leave, or to reach if ``targeted``.
        targeted: Whether the labels are the classes to reach.
        exhaustive: Whether the D draws are all draws of the model, and equally likely.
        noise: See :func:`rounding`.

    Returns:
        ``(...)``, infinite where a logit is not a number. For exhaustive draws it is negative if and only if the goal is
        reached in every draw.

    >>> logits = torch.tensor([[[2.0, 0.0, -9.0]], [[0.0, 2.0, -9.0]]])
    >>> expected_margin(logits, torch.tensor([0]), targeted=False, exhaustive=True)
    tensor([0.5000], dtype=torch.float64)
    """
    draws = len(logits)
    margins = margin(logits, labels.expand(draws, *labels.shape))
    if targeted:
        margins = -margins
    if draws == 1 and exhaustive:
        return (margins[0] + rounding(logits[0], noise)).nan_to_num_(torch.inf, _LARGEST_MARGIN, -_LARGEST_MARGIN)
    margins = margins.double()
    value = bounded(margins, 1).mean(0)
    if exhaustive:
        unbroken = (margins >= -rounding(logits, noise)).double().mean(0)
        value = unbroken.add_(value, alpha=1 / (2 * draws + 1))
    return value.nan_to_num_(torch.inf)


def mean_over_draws(values: Tensor) -> Tensor:
    """The mean ``(N, ...)`` of values ``(D, N, ...)`` over the draws; a single draw needs no computation."""
    return values[0] if len(values) == 1 else values.mean(0)

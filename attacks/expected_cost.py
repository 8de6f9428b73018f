"""Projected gradient descent on the expected cost of the prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import bounded, closed_form, margin, rounding
from robustbench_cli.attacks.base.parameters.class_costs import ClassCosts
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD

__all__ = ["ExpectedCost"]

_TIE = 1e-10
"""The weight of the loss in the choice among iterates: less than the smallest ratio of two costs, over a thousand draws."""


def _slope(method: ClassCosts, logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """The slope ``(M, K)`` of the loss, and what computes the loss ``(M,)``; see :meth:`ExpectedCost.loss`."""
    logits = logits.float()
    costs = method.costs(labels, logits.shape[1])
    weighted, shares = logits + costs.log(), logits.softmax(1)
    # The slope is ``w_j - p_j = w_j (1 - sum_k C_k p_k / C_j)``, with the softmax w of the weighted logits. The difference
    # cancels where one class has nearly all of the probability. Only two costs are above 0 in a row, so it is also
    # ``p_y + (1 - C / C_j) q``, for the other cost C and the probability q of its classes.
    most = costs.amax(1, keepdim=True)
    is_most, is_less = costs == most, (costs > 0) & (costs < most)
    less = costs.where(is_less, 0).amax(1, keepdim=True)
    of_most, of_less = (shares.where(mask, 0).sum(1, keepdim=True) for mask in (is_most, is_less))
    of_label = shares.gather(1, labels.unsqueeze(1))
    rise = torch.where(is_most, of_label + (1 - less / most) * of_less, of_label + (1 - most / costs) * of_most)
    slope = (weighted.softmax(1) * rise).scatter(1, labels.unsqueeze(1), -of_label)
    return slope, lambda: weighted.logsumexp(1) - logits.logsumexp(1)


class ExpectedCost(ClassCosts, PGD):
    """Projected gradient descent on the expected cost: errors that cost more count more.

    The loss is the logarithm of ``sum_j C[y, j] p_j``, whose slope does not vanish where the softmax saturates. The result
    is the iterate whose prediction costs most, and among equal ones that with the largest loss. An image stops early only
    once every draw pays the most that its class can cost, since a cheap error is not the end.

    Where all errors of a class cost the same, the loss increases in the direction of the cross-entropy, and the attack is
    ``pgd``. With ``false_alarm`` above 1 it drives images of other classes into the protected ones, and lowers the precision
    of these. ``advdef report --by-class`` shows recall and precision. It may then miss a cheap error that ``pgd`` finds, so its
    robust accuracy says nothing by itself: run ``pgd`` beside it. Towards a target, nothing is to be chosen, and the
    attack is ``pgd`` again.
    """

    paper: ClassVar[str] = (
        "The cost matrix: Zhang, Evans: Cost-Sensitive Robustness against Adversarial Examples. ICLR 2019, arXiv 1810.09225; "
        "inside PGD as in Madry et al., ICLR 2018"
    )

    # PGD's is a function of logits and labels alone, and this one needs the costs.
    @closed_form(_slope)
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """The logarithm of the expected cost ``(M,)``, for logits ``(M, K)`` and labels ``(M,)``."""
        return _slope(self, logits, labels)[1]()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        if threat.targeted:
            pgd = PGD(**{name: getattr(self, name) for name in PGD.model_fields})
            return pgd.run(source, images, labels, threat, random)
        return super().run(source, images, labels, threat, random)

    def best_iterates(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> BestIterates:
        return _CostliestIterates(self, source, images, labels, threat)


class _CostliestIterates(BestIterates):
    """The iterate of each image whose prediction costs most; an image is broken once every draw costs the most."""

    def __init__(
        self, method: ClassCosts, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat
    ) -> None:
        super().__init__(source, images, labels, threat)
        self._method = method

    def distance_to_goal(self, logits: Tensor, labels: Tensor) -> Tensor:
        costs = self._method.costs(labels.flatten(), logits.shape[-1]).unflatten(0, labels.shape)
        fooled = margin(logits, labels.expand(logits.shape[:-1])) < -rounding(logits, self._noise)
        answers = logits.argmax(-1, keepdim=True)
        paid = costs.expand_as(logits).gather(-1, answers).squeeze(-1) * fooled
        shortfall = (1 - paid.double() / costs.amax(-1)).mean(0)
        logarithm = (logits + costs.log()).logsumexp(-1) - logits.logsumexp(-1)
        # In [0, 1], with a weight far below the ratio of two costs: it decides between equal costs alone.
        tie = (1 - bounded(logarithm.double(), 1).mean(0)) / 2
        return torch.where(shortfall == 0, tie - 2, shortfall + _TIE * tie).nan_to_num(torch.inf)

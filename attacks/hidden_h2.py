"""Steps on the cross-entropy and away from the image's hidden representation."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.losses import Loss, closed_form, cross_entropy, slope_and_value
from robustbench_cli.attacks.base.search.hidden_steps import HiddenSteps
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["HiddenH2"]


class HiddenH2(HiddenSteps):
    """Steps that maximize the cross-entropy plus a multiple of the distance between hidden representations.

    In the style of the paper, whose full text was not at hand: its abstract only names three attacks with hidden
    representations. The loss is ``CE(f(x'), y) + weight |h(x') - h(x)|_2``, under one draw of a randomized model. A target's cross-entropy
    has a minus sign. With ``weight=0`` this is the loss of ``pgd``.

    The attack is mostly weaker than ``pgd``: a part of each step serves the distance, which also grows away from the decision boundary.
    """

    weight: float = Field(0.1, ge=0, description="factor of the distance between the representations")

    def objective(self, threat: Threat) -> tuple[Loss | None, float]:
        return _log_likelihood if threat.targeted else cross_entropy, self.weight


def _slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    slope, value = slope_and_value(cross_entropy, logits, labels)
    return -slope, lambda: -value()


@closed_form(_slope)
def _log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)

"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss, log_odds
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDCE"]


class APGDCE(APGD):
    """Auto-PGD on the cross-entropy: projected gradient descent with adaptive step sizes.

    The loss is the log-odds of the label, a monotone function of the cross-entropy. The steps are the same, and they do
    not stop where the softmax saturates. For a randomized model, the log-odds are averaged over the draws.
    """

    def loss(self, threat: Threat) -> Loss:
        return log_odds

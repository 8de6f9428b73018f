"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss, log_odds
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDCE"]


class APGDCE(APGD):
    """Auto-PGD on the cross-entropy: projected gradient descent that finds its step sizes by itself.

    Its loss is the log-odds against the label, of which the cross-entropy is a monotone function: the steps are the
    same, and go on where the softmax saturates. Of a randomized model the mean over the draws is that of the log-odds.
    """

    def loss(self, threat: Threat) -> Loss:
        return log_odds

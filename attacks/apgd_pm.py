"""Auto-PGD on the margin of the probabilities."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss, probability_margin
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDPM"]


class APGDPM(APGD):
    """Auto-PGD on the probability margin of Xie et al. (arXiv 2411.15210), the loss of ``pma``, with adaptive step sizes."""

    def loss(self, threat: Threat) -> Loss:
        return probability_margin

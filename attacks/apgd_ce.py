"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from torch import Tensor

from robustbench_cli.attacks.base.apgd import APGD
from robustbench_cli.attacks.base.losses import cross_entropy

__all__ = ["APGDCE"]


class APGDCE(APGD):
    """Auto-PGD on the cross-entropy: projected gradient descent that finds its step sizes by itself."""

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

"""Auto-PGD on the difference of logits ratio."""

from __future__ import annotations

from torch import Tensor

from robustbench_cli.attacks.base.apgd import APGD
from robustbench_cli.attacks.base.losses import dlr

__all__ = ["APGDDLR"]


class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio, which neither a shift nor a scale of the logits changes.

    Of two classes there is no third logit for the ratio: there the loss is the margin.
    """

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return dlr(logits, labels)

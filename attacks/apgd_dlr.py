"""Auto-PGD on the difference of logits ratio."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss, dlr, targeted_dlr
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDDLR"]


class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio, which neither a shift nor a scale of the logits changes.

    Of two classes there is no third logit for the ratio: there the loss is the margin. Towards a target it is the
    targeted ratio, as in ``apgd-t``: the untargeted one is constant for as long as the target has the third logit.
    """

    def min_classes(self, *, targeted: bool) -> int:
        return 4 if targeted else 3

    def loss(self, threat: Threat) -> Loss:
        return targeted_dlr if threat.targeted else dlr

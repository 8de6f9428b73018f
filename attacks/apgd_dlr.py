"""Auto-PGD on the difference of logits ratio."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss, dlr, targeted_dlr
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDDLR"]


class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio (DLR), which is invariant to shifts and scales of the logits.

    The DLR loss is equation 6 of Croce and Hein (ICML 2020). With two classes there is no third logit to divide by, and
    the loss is the margin. A targeted attack uses the targeted ratio (equation 7), as ``apgd-t`` does: the untargeted one
    is constant while the target has the third-largest logit.
    """

    def min_classes(self, *, targeted: bool) -> int:
        return 4 if targeted else 3

    def loss(self, threat: Threat) -> Loss:
        return targeted_dlr if threat.targeted else dlr

"""Projected gradient descent on the margin of Carlini and Wagner."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.losses import bounded, margin, unmasked_spread
from robustbench_cli.attacks.pgd import PGD

__all__ = ["CWPGD"]


_BREADTH = 0.15
"""The margin at which a draw counts half as much, in parts of :func:`.losses.unmasked_spread` of its logits."""


class CWPGD(PGD):
    """Projected gradient descent on the C&W margin: the largest other logit minus the label's, without a hinge.

    The margin's gradient does not vanish where the softmax saturates, so this attack breaks what only masks the
    cross-entropy's (defensive distillation, for one). Run it beside ``pgd``: which of the two is stronger varies.

    Of a randomized model the mean is taken of margins m as ``m / (s + |m|)``, s being in proportion to the draw's own
    logits: draws that are near the boundary decide where to go, not those that no step can turn, nor those that have
    fallen long since. With one draw this leaves the margin's direction as it is.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644 (the "
        "loss f_6); inside PGD as in Madry et al., ICLR 2018, section 5, and Wang et al., IJCAI 2019, arXiv 1908.07116"
    )

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        scale = _BREADTH * unmasked_spread(logits.detach())
        # Of equal logits the spread is 0, and so is the margin.
        return -bounded(margin(logits, labels), scale.clamp_min(1e-30))

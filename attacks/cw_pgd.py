"""Projected gradient descent on the margin of Carlini and Wagner."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.losses import bounded, closed_form, margin, slope_and_value, unmasked_spread
from robustbench_cli.attacks.pgd import PGD

__all__ = ["CWPGD"]


_BREADTH = 0.15
"""The margin at which the weight of a draw starts to fall, relative to :func:`.losses.unmasked_spread` of its logits."""


def _slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    slope, value = slope_and_value(margin, logits, labels)
    margins, scale = value(), _scale(logits)
    length = scale + margins.abs()
    return slope.mul_((scale / length / -length).unsqueeze(1)), lambda: -bounded(margins, scale)


def _scale(logits: Tensor) -> Tensor:
    """``(M,)``: the margins that count half."""
    # Equal logits have spread 0 and margin 0.
    return (_BREADTH * unmasked_spread(logits.detach())).clamp_min(1e-30)


class CWPGD(PGD):
    """Projected gradient descent on the C&W margin: the largest other logit minus the label's logit, without a hinge.

    The gradient of the margin does not vanish where the softmax saturates. So this attack breaks defenses that only mask
    the gradient of the cross-entropy, such as defensive distillation. Run it beside ``pgd``: either can be the stronger one.

    For a randomized model the loss is the mean of ``m / (s + |m|)`` over the margins m of the draws, with s in proportion
    to the spread of the draw's logits. Draws near the decision boundary then determine the direction, rather than draws
    that no step can turn or that are broken already. With one draw the direction is that of the margin.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644 (the "
        "loss f_6); inside PGD as in Madry et al., ICLR 2018, section 5, and Wang et al., IJCAI 2019, arXiv 1908.07116"
    )

    @staticmethod
    @closed_form(_slope)
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return -bounded(margin(logits, labels), _scale(logits))

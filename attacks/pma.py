"""Projected gradient descent on the margin of the probabilities."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.losses import closed_form, probability_margin, slope_and_value
from robustbench_cli.attacks.pgd import PGD

__all__ = ["PMA"]


class PMA(PGD):
    """Projected gradient descent on the probability margin: the largest other probability minus the label's.

    The slope follows the other classes in proportion to their probabilities, as that of the cross-entropy does, and the
    largest of them most, as that of the margin does. With few steps it is often stronger than both; towards a target,
    ``pgd`` and ``cw-pgd`` are stronger. The loss is the logarithm of 1 plus the probability margin, which increases in the
    same direction and does not saturate. For a randomized model, the logarithms are averaged over the draws.
    """

    paper: ClassVar[str] = (
        "Xie, Zheng, Huang, Ye, Ma: Towards Million-Scale Adversarial Robustness Evaluation With Stronger Individual "
        "Attacks. arXiv 2411.15210"
    )

    @staticmethod
    @closed_form(partial(slope_and_value, probability_margin))
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return probability_margin(logits, labels)

"""Projected gradient descent on the margin as in the authors' code of Hierarchical Random Switching."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.losses import closed_form, margin, slope_and_value
from robustbench_cli.attacks.paper_pgd import PaperPGD

__all__ = ["PaperCWPGD"]


def _slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    slope, value = slope_and_value(margin, logits, labels)
    return slope.neg_(), lambda: -value()


class PaperCWPGD(PaperPGD):
    """CW-PGD of the authors' code for ``hrs``: Adam on the gradient of the C&W margin, and the last iterate.

    The search is that of ``paper-pgd``, except that Adam gets the gradient itself and not its sign. ``cw-pgd`` is the attack
    to judge a defense by.
    """

    paper: ClassVar[str] = (
        "Wang, Wang, Chen, Wang, Kulis, Lin, Chin: Protecting Neural Networks with Hierarchical Random Switching. IJCAI 2019, "
        "arXiv 1908.07116, appendix C.1; the class CW_PGD in attack_utils.py of the authors' code"
    )

    @staticmethod
    @closed_form(_slope)
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return -margin(logits, labels)

    @staticmethod
    def for_adam(gradient: Tensor) -> Tensor:
        """What Adam gets for a gradient ``(N, C, H, W)``: the gradient itself."""
        return gradient

"""Projected gradient descent with gradients estimated by simultaneous perturbations (SPSA)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.gradients.finite_differences import FiniteDifferences
from robustbench_cli.attacks.base.rng import Random

__all__ = ["SPSA"]


class SPSA(FiniteDifferences):
    """Projected gradient descent with gradients estimated from scores by simultaneous perturbation of all pixels.

    Every pixel changes by plus or minus the same amount (section 4.2 of the paper). The loss is the margin.
    """

    paper: ClassVar[str] = (
        "Uesato, O'Donoghue, van den Oord, Kohli: Adversarial Risk and the Dangers of Evaluating Against Weak Attacks. "
        "ICML 2018, arXiv 1802.05666"
    )

    def directions(self, shape: tuple[int, ...], random: Random) -> Tensor:
        return random.signs(shape)

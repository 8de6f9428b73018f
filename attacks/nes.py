"""Projected gradient descent with gradients estimated by natural evolution strategies (NES)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.gradients.finite_differences import FiniteDifferences
from robustbench_cli.attacks.base.rng import Random

__all__ = ["NES"]


class NES(FiniteDifferences):
    """Projected gradient descent with gradients estimated from scores by natural evolution strategies.

    The estimate uses antithetic pairs of normally distributed points around the iterate (algorithm 1). The loss is the
    margin, which does not saturate as the class probabilities of the paper do.
    """

    paper: ClassVar[str] = (
        "Ilyas, Engstrom, Athalye, Lin: Black-box Adversarial Attacks with Limited Queries and Information. ICML 2018, "
        "arXiv 1804.08598"
    )

    # Box and Muller's transformation takes two numbers.
    draws_per_chunk: ClassVar[int] = 2

    def directions(self, shape: tuple[int, ...], random: Random) -> Tensor:
        return random.normal(shape)

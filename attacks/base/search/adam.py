"""The moments of Adam, for attacks that descend with it."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["update_moments"]


def update_moments(gradient: Tensor, first: Tensor, second: Tensor, step: int) -> tuple[Tensor, float]:
    """Updates Adam's moments in place (Kingma, Ba: Adam. ICLR 2015, algorithm 1, with its default rates of decay).

    The step of descent is ``-rate * factor * first / root``. The corrections of the moments' bias are in the factor, so that
    they take no operation on every pixel.

    Args:
        gradient: ``(N, C, H, W)``.
        first: ``(N, C, H, W)``, the first moment, 0 before the first step.
        second: ``(N, C, H, W)``, the second moment, 0 before the first step.
        step: The number of the step, from 1.

    Returns:
        The root ``(N, C, H, W)``, and the factor.
    """
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    correction = math.sqrt(1 - 0.999**step)
    return second.sqrt().add_(1e-8 * correction), correction / (1 - 0.9**step)

"""The moments of Adam, for attacks that descend with it."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["bias_corrections", "update_moments"]


def bias_corrections(step: int) -> tuple[float, float]:
    """The corrections of the moments' bias (Kingma, Ba: Adam. ICLR 2015, section 2), as numbers rather than operations on pixels.

    Args:
        step: The number of the step, from 1.

    Returns:
        The factor of the step, and the smallest root; see :func:`update_moments`.
    """
    correction = math.sqrt(1 - 0.999**step)
    return correction / (1 - 0.9**step), 1e-8 * correction


def update_moments(gradient: Tensor, first: Tensor, second: Tensor, smallest: float | Tensor) -> Tensor:
    """Updates Adam's moments in place (Kingma, Ba: Adam. ICLR 2015, algorithm 1, with its default rates of decay).

    The step of descent is ``-rate * factor * first / root``; see :func:`bias_corrections`.

    Args:
        gradient: ``(N, C, H, W)``.
        first: ``(N, C, H, W)``, the first moment, 0 before the first step.
        second: ``(N, C, H, W)``, the second moment, 0 before the first step.
        smallest: The smallest root, a number or ``()``.

    Returns:
        The root ``(N, C, H, W)``.
    """
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    return second.sqrt().add_(smallest)

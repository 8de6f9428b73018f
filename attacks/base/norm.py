"""The norms that measure a perturbation."""

from typing import Literal, get_args

__all__ = ["NORMS", "Norm"]

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)

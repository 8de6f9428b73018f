"""Certificates: a class for each image, and the radius within which no attack changes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats

__all__ = ["Certificates"]


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """The certified classes and radii of N images.

    Attributes:
        predicted: ``(N,)`` the certified classes; -1 where the procedure abstains.
        radius: ``(N,)`` the certified radii; no image nearer than that gets another class. 0 where it abstains.
    """

    predicted: NDArray[np.int64]
    radius: Floats

    def certified(self, labels: NDArray[np.int64], eps: float) -> NDArray[np.bool_]:
        """Which images are certified to be classified correctly within a radius.

        Args:
            labels: ``(N,)`` the true classes.
            eps: The radius.

        Returns:
            ``(N,)`` booleans.
        """
        return np.asarray((self.predicted == labels) & (self.radius >= eps))

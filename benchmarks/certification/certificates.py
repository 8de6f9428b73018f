"""What a certificate says of images, however it was come by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics import Floats

__all__ = ["Certificates"]


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Which class each of N images is certified to be of, and how far around it.

    Attributes:
        predicted: ``(N,)`` the classes; -1 where nothing is said.
        radius: ``(N,)``: no image nearer than that is taken for another class; 0 where nothing is said.
    """

    predicted: NDArray[np.int64]
    radius: Floats

    def certified(self, labels: NDArray[np.int64], eps: float) -> NDArray[np.bool_]:
        """``(N,)``: which images with labels ``(N,)`` are certified to be right within radius ``eps``."""
        return np.asarray((self.predicted == labels) & (self.radius >= eps))

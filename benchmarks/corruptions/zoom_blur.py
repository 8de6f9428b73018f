"""Zoom blur."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import zoom

__all__ = ["ZoomBlur"]

_SMALL = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))

FACTORS: Levels[tuple[float, float]] = {
    "cifar": _SMALL,
    "tiny-imagenet": _SMALL,
    "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
}
"""The end and the step of the factors, which begin at 1."""


class ZoomBlur(Corruption):
    """The blur of a camera that moves towards its object: the mean of an image and of enlarged ones."""

    family: ClassVar[Family] = "blur"

    def run(self, images: Tensor, random: Random) -> Tensor:
        end, step = self.level(FACTORS, images)
        # NumPy's own range of floats, which may include its end by rounding, as in the published images.
        factors = np.arange(1, end, step).tolist()
        total = images.clone()
        for factor in factors:
            total += zoom(images, factor)
        return total / (len(factors) + 1)

"""Speckle noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["SpeckleNoise"]

STANDARD_DEVIATION: Levels[float] = {
    "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
    "tiny-imagenet": (0.15, 0.2, 0.25, 0.3, 0.35),
    "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
}
"""Relative to a value."""


class SpeckleNoise(Corruption):
    """Gaussian noise in proportion to every value."""

    family: ClassVar[Family] = "noise"

    def run(self, images: Tensor, random: Random) -> Tensor:
        return images + images * self.level(STANDARD_DEVIATION, images) * random.normal(images.shape[1:])

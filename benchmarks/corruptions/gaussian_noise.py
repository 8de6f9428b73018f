"""Gaussian noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["GaussianNoise"]

STANDARD_DEVIATION: Levels[float] = {
    "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
    "tiny-imagenet": (0.04, 0.08, 0.12, 0.15, 0.18),
    "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
}


class GaussianNoise(Corruption):
    """Gaussian noise on every value, as in low light."""

    family: ClassVar[Family] = "noise"

    def run(self, images: Tensor, random: Random) -> Tensor:
        return images + self.level(STANDARD_DEVIATION, images) * random.normal(images.shape[1:])

"""Gaussian blur."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base import filters
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["GaussianBlur"]

SIGMA: Levels[float] = {
    "cifar": (0.4, 0.6, 0.7, 0.8, 1),
    "tiny-imagenet": (0.5, 0.75, 1, 1.25, 1.5),
    "imagenet": (1, 2, 3, 4, 6),
}


class GaussianBlur(Corruption):
    """A Gaussian blur."""

    family: ClassVar[Family] = "blur"

    def run(self, images: Tensor, random: Random) -> Tensor:
        return filters.gaussian_blur(images, self.level(SIGMA, images))

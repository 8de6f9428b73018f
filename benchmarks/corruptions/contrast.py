"""Contrast."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["Contrast"]

_LARGE = (0.4, 0.3, 0.2, 0.1, 0.05)

FACTOR: Levels[float] = {"cifar": (0.75, 0.5, 0.4, 0.3, 0.15), "tiny-imagenet": _LARGE, "imagenet": _LARGE}


class Contrast(Corruption):
    """Less contrast: every value moves towards the mean of its channel."""

    family: ClassVar[Family] = "digital"

    def run(self, images: Tensor, random: Random) -> Tensor:
        mean = images.mean(dim=(2, 3), keepdim=True)
        return mean + (images - mean) * self.level(FACTOR, images)

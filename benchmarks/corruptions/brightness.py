"""Brightness."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.color import with_value
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["Brightness"]

_LARGE = (0.1, 0.2, 0.3, 0.4, 0.5)

ADDED: Levels[float] = {"cifar": (0.05, 0.1, 0.15, 0.2, 0.3), "tiny-imagenet": _LARGE, "imagenet": _LARGE}


class Brightness(Corruption):
    """More light: a larger value in the color space HSV."""

    family: ClassVar[Family] = "weather"

    def run(self, images: Tensor, random: Random) -> Tensor:
        value = images.amax(dim=1, keepdim=True) + self.level(ADDED, images)
        return with_value(images, value.clamp(0, 1))

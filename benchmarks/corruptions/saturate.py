"""Saturation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.color import with_saturation
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["Saturate"]

SATURATION: Levels[tuple[float, float]] = {
    "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "tiny-imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}
"""What the saturation is multiplied by, and what is added then."""


class Saturate(Corruption):
    """Weaker or stronger colors: another saturation in the color space HSV. Gray images stay as they are."""

    family: ClassVar[Family] = "digital"

    def run(self, images: Tensor, random: Random) -> Tensor:
        factor, added = self.level(SATURATION, images)
        return with_saturation(images, factor=factor, added=added)

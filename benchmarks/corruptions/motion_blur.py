"""Motion blur."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base import filters
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["MotionBlur"]

LINE: Levels[tuple[int, float]] = {
    "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "tiny-imagenet": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
"""The radius and the standard deviation of the line."""


class MotionBlur(Corruption):
    """The blur of a moving camera, in a random direction of at most 45 degrees from the horizontal."""

    family: ClassVar[Family] = "blur"

    def run(self, images: Tensor, random: Random) -> Tensor:
        radius, sigma = self.level(LINE, images)
        return filters.motion_blur(images, random.uniform(()) * 90 - 45, radius=radius, sigma=sigma)

"""Snow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.color import luminance
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import motion_blur, zoom

__all__ = ["Snow"]


_SMALL = (
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)

FLAKES: Levels[tuple[float, float, float, float, int, float]] = {
    "cifar": _SMALL,
    "tiny-imagenet": _SMALL,
    "imagenet": (
        (0.1, 0.3, 3, 0.5, 10, 4),
        (0.2, 0.3, 2, 0.5, 12, 4),
        (0.55, 0.3, 4, 0.9, 12, 8),
        (0.55, 0.3, 4.5, 0.85, 12, 8),
        (0.55, 0.3, 2.5, 0.85, 12, 12),
    ),
}
"""The mean and the standard deviation of the flakes, their size, the threshold of a flake, and the radius and the standard
deviation of its motion.
"""

WEIGHT: Levels[float] = {
    "cifar": (0.95, 0.9, 0.9, 0.85, 0.8),
    "tiny-imagenet": (0.8, 0.8, 0.7, 0.65, 0.6),
    "imagenet": (0.8, 0.7, 0.7, 0.65, 0.55),
}
"""Of the image, against its whitened version."""


class Snow(Corruption):
    """Falling snow: random flakes, blurred by their fall, over an image that loses contrast."""

    family: ClassVar[Family] = "weather"

    def run(self, images: Tensor, random: Random) -> Tensor:
        mean, deviation, size, threshold, radius, sigma = self.level(FLAKES, images)
        weight = self.level(WEIGHT, images)
        noise = mean + deviation * random.normal((1, *images.shape[-2:])).double()
        flakes = zoom(noise, size)
        flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
        snow = motion_blur(flakes, random.uniform(()) * 90 - 135, radius=radius, sigma=sigma)
        whitened = torch.maximum(images, luminance(images) * 1.5 + 0.5)
        return weight * images + (1 - weight) * whitened + snow + snow.flip((2, 3))

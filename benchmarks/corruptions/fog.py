"""Fog."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["Fog"]

FOG: Levels[tuple[float, float]] = {
    "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "tiny-imagenet": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
"""The thickness and the decay: halving the scale divides the amplitude by ``decay**2``."""


class Fog(Corruption):
    """Fog: a random fractal of the diamond-square algorithm (Fournier, Fussell, Carpenter, 1982), added to the image."""

    family: ClassVar[Family] = "weather"

    def run(self, images: Tensor, random: Random) -> Tensor:
        thickness, decay = self.level(FOG, images)
        height, width = images.shape[-2:]
        fog = _fractal(len(images), 1 << (max(height, width) - 1).bit_length(), decay, random)
        largest = images.amax(dim=(1, 2, 3), keepdim=True)
        foggy = images + thickness * fog[:, None, :height, :width].to(images.dtype)
        return foggy * largest / (largest + thickness)


def _fractal(count: int, size: int, decay: float, random: Random) -> Tensor:
    """Random height maps, periodic; each map is scaled to minimum 0 and maximum 1.

    Args:
        count: N.
        size: The side of a map, a power of two.
        decay: Halving the scale divides the amplitude by ``decay**2``.
        random: A stream for each map.

    Returns:
        ``(N, size, size)``, float64.
    """
    heights = torch.zeros(count, size, size, dtype=torch.float64)
    step, variation = size, 1.0

    def varied(total: Tensor) -> Tensor:
        return total / 4 + variation * (2 * random.uniform(total.shape[1:]).double() - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        beside = corners + corners.roll(-1, 1)
        middles = varied(beside + beside.roll(-1, 2))
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = varied(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        heights[:, half::step, ::step] = varied(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        # The paper's code multiplies a random number by the variation twice.
        step, variation = half, variation / decay**2
    heights -= heights.amin(dim=(1, 2), keepdim=True)
    return heights / heights.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)

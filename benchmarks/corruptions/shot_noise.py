"""Shot noise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy.special import pdtr
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["ShotNoise"]

PHOTONS: Levels[int] = {
    "cifar": (500, 250, 100, 75, 50),
    "tiny-imagenet": (250, 100, 50, 30, 15),
    "imagenet": (60, 25, 12, 5, 3),
}
"""The expected number of photons of a white pixel."""


class ShotNoise(Corruption):
    """Poisson noise, from the discrete nature of light."""

    family: ClassVar[Family] = "noise"

    def run(self, images: Tensor, random: Random) -> Tensor:
        photons = self.level(PHOTONS, images)
        return _counts(images, photons, random.uniform(images.shape[1:])) / photons


def _counts(images: Tensor, photons: int, uniform: Tensor) -> Tensor:
    """Poisson counts with the rates ``images * photons``, by the inverse of the distribution function.

    Args:
        images: Multiples of 1/255 in [0, 1].
        photons: The rate of a white pixel.
        uniform: Uniform numbers in [0, 1), as many.
    """
    # The probability of more is below 1e-9.
    most = int(photons + 6.5 * photons**0.5) + 20
    rates = np.arange(256)[:, None] / 255 * photons
    # Level k's distribution function is shifted by k, so that one sorted list serves all levels.
    table = torch.from_numpy(pdtr(np.arange(most), rates) + np.arange(256)[:, None])
    levels = images.mul(255).round().long()
    position = torch.searchsorted(table.flatten(), levels + uniform.double(), right=True)
    return (position - levels * most).clamp(0, most).to(images.dtype)

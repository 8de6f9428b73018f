"""Impulse noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels

__all__ = ["ImpulseNoise"]

AMOUNT: Levels[float] = {
    "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
    "tiny-imagenet": (0.01, 0.02, 0.05, 0.08, 0.14),
    "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
}
"""The share of values that change."""


class ImpulseNoise(Corruption):
    """Salt-and-pepper noise: some values become 0 or 1, as by bit errors."""

    family: ClassVar[Family] = "noise"

    def run(self, images: Tensor, random: Random) -> Tensor:
        amount = self.level(AMOUNT, images)
        uniform = random.uniform(images.shape[1:]).double()
        return torch.where(uniform < amount, (uniform < amount / 2).to(images.dtype), images)

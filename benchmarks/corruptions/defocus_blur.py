"""Defocus blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import convolve, gaussian_blur

__all__ = ["DefocusBlur"]

DISK: Levels[tuple[float, float]] = {
    "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "tiny-imagenet": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
"""The radius of the disk, and the standard deviation of the Gaussian that smooths its edge."""


class DefocusBlur(Corruption):
    """The blur of an image out of focus: every point becomes a disk."""

    family: ClassVar[Family] = "blur"

    def run(self, images: Tensor, random: Random) -> Tensor:
        return convolve(images, _disk(*self.level(DISK, images)))


def _disk(radius: float, smoothing: float) -> Tensor:
    """``(K, K)``: a disk whose edge is smoothed by a kernel of 3 or, if it is large, 5 pixels.

    As in the code of the paper, a disk that fills the kernel is mirrored at its edge, and so gets brighter by 1 to 2 %.
    """
    half = 8 if radius <= 8 else int(radius)
    offsets = torch.arange(-half, half + 1, dtype=torch.float64)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).double()
    pixels = 1 if radius <= 8 else 2
    return gaussian_blur(disk / disk.sum(), smoothing, border="reflect", truncate=(pixels + 0.01) / smoothing)

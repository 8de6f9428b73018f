"""Spatter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.color import luminance
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import gaussian_blur

__all__ = ["Spatter"]

DROPS: Levels[tuple[float, float, float, float, float, bool]] = {
    "cifar": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    "tiny-imagenet": (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    "imagenet": (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
}
"""The mean and the standard deviation of the liquid, the size of its drops, the threshold of a drop, the strength of water or
the smoothness of mud, and whether it is mud.
"""

_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)

_EMBOSSING = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


class Spatter(Corruption):
    """Drops of water (severity 1 to 3) or of mud (4 and 5) on the lens."""

    family: ClassVar[Family] = "weather"

    def run(self, images: Tensor, random: Random) -> Tensor:
        mean, deviation, size, threshold, strength, is_mud = self.level(DROPS, images)
        noise = mean + deviation * random.normal((1, *images.shape[-2:])).double()
        liquid = gaussian_blur(noise, size)
        color = torch.tensor(_MUD if is_mud else _WATER, dtype=images.dtype).view(1, 3, 1, 1)
        color = luminance(color) if images.shape[1] == 1 else color
        if is_mud:
            mud = gaussian_blur((liquid > threshold).double(), strength)
            mud = torch.where(mud < 0.8, 0.0, mud)
            return images * (1 - mud) + color * mud
        liquid = torch.where(liquid < threshold, 0.0, liquid).clamp(0, 1)
        water = torch.from_numpy(np.stack([_water(drops) for drops in liquid[:, 0].numpy()]))[:, None]
        return (images + strength * water * color).clamp(0, 1)


def _water(liquid: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(H, W)`` in [0, 1]: drops that shine at one side, by their distance from the edge of a drop."""
    drops = liquid > 0
    edges = drops & ~ndimage.binary_erosion(drops, border_value=1)
    if not edges.any():
        return np.zeros_like(liquid)
    distance = ndimage.distance_transform_edt(~edges).clip(max=20)
    smooth = ndimage.uniform_filter(distance, 3, mode="mirror").astype(np.uint8)
    embossed = ndimage.correlate(_equalized(smooth), _EMBOSSING, mode="mirror").clip(0, 255)
    shine = liquid * ndimage.uniform_filter(embossed.astype(np.float64), 3, mode="mirror")
    return np.asarray(shine / max(float(shine.max()), 1e-12))


def _equalized(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """An image of 256 levels whose levels are about equally frequent."""
    total = np.bincount(levels.ravel(), minlength=256).cumsum()
    lowest = int(total[levels.min()])
    spread = max(levels.size - lowest, 1)
    table: NDArray[np.int64] = ((total - lowest).clip(min=0) * 255 / spread).round().astype(np.int64)
    return table[levels]

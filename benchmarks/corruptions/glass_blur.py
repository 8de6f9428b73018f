"""Glass blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels, rounded_down
from robustbench_cli.benchmarks.corruptions.base.filters import gaussian_blur

__all__ = ["GlassBlur"]

GLASS: Levels[tuple[float, int, int]] = {
    "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "tiny-imagenet": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
"""The standard deviation of the blur, the largest offset of a pixel, and the number of rounds."""


class GlassBlur(Corruption):
    """The view through frosted glass: a blur, an exchange of near pixels, and a blur.

    The paper's code is meant to swap two pixels, but NumPy slices are views, so one is copied over the other. The published images
    have this error; so have these.
    """

    family: ClassVar[Family] = "blur"

    def run(self, images: Tensor, random: Random) -> Tensor:
        sigma, offset, rounds = self.level(GLASS, images)
        blurred = rounded_down(gaussian_blur(images, sigma))
        for _ in range(rounds):
            blurred = _shuffled(blurred, offset, random)
        return gaussian_blur(blurred, sigma)


def _shuffled(images: Tensor, offset: int, random: Random) -> Tensor:
    """Each pixel, from the last to the first, becomes a random neighbor, which may have become another one before.

    A pixel that has become its neighbor's neighbor leads to a third pixel, and so on. The ends of these chains are found by
    doubling: each round makes every link twice as long.

    Args:
        images: ``(N, C, H, W)``.
        offset: A neighbor is up to ``offset`` pixels before and ``offset - 1`` behind, in both directions.
        random: A stream for each image.
    """
    count, _, height, width = images.shape
    size = height * width
    rows, columns = torch.arange(offset + 1, height - offset + 1), torch.arange(offset + 1, width - offset + 1)
    rows, columns = rows[rows < height], columns[columns < width]
    if not len(rows) or not len(columns):
        return images
    here = (rows[:, None] * width + columns).flatten()
    steps = random.integers(2 * offset, (2, len(here))) - offset
    there = here + steps[:, 0] * width + steps[:, 1]
    # A node below `size` is a pixel as it was; node `size + p` is what pixel p becomes.
    link = torch.arange(2 * size).repeat(count, 1)
    link[:, size:] = torch.arange(size)
    changes = torch.zeros(size, dtype=torch.bool)
    changes[here] = True
    # Later pixels have been changed before.
    has_changed = changes[there] & (there > here)
    link[:, size + here] = there + size * has_changed
    while True:
        longer = link.gather(1, link)
        if torch.equal(longer, link):
            break
        link = longer
    source = link[:, None, size:].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, source).view_as(images)

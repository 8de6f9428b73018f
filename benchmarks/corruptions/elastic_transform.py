"""Elastic transform."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import gaussian_blur, sample

__all__ = ["ElasticTransform"]

MOVES: Levels[tuple[float, float, float]] = {
    "cifar": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "tiny-imagenet": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    # The paper's code takes 244 for 224.
    "imagenet": tuple(
        (244 / 224 * distance, 244 / 224 * sigma, 244 / 224 * corners)
        for distance, sigma, corners in (
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        )
    ),
}
"""How far pixels move, over which distance they move together, and how far the corners of the whole image move: relative to
the side of the image.
"""


class ElasticTransform(Corruption):
    """A random affine map of the whole image, then a random shift of each of its regions."""

    family: ClassVar[Family] = "digital"

    def run(self, images: Tensor, random: Random) -> Tensor:
        height, width = images.shape[-2:]
        side = min(height, width)
        distance, sigma, corners = (side * share for share in self.level(MOVES, images))
        rows, columns = torch.meshgrid(
            torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
        )
        matrix = _affine(height, width, corners, random)
        points = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1)
        source = torch.einsum("nij,hwj->inhw", matrix, points)
        moved = sample(images, source[0], source[1], border="reflect")
        noise = 2 * random.uniform((2, height, width)).double() - 1
        shift = distance * gaussian_blur(noise, sigma, border="symmetric", truncate=3)
        return sample(moved, rows + shift[:, 0], columns + shift[:, 1], border="symmetric")


def _affine(height: int, width: int, corners: float, random: Random) -> Tensor:
    """``(N, 2, 3)``: maps a pixel ``(row, column, 1)`` of the new image to where it comes from.

    Three points around the middle move by up to ``corners`` pixels in each direction.
    """
    row, column, third = height // 2, width // 2, min(height, width) // 3
    before = torch.tensor(
        [(row + third, column + third), (row - third, column + third), (row - third, column - third)],
        dtype=torch.float64,
    )
    moves = corners * (2 * random.uniform((3, 2)).double() - 1)
    after = torch.cat([before + moves, torch.ones(len(moves), 3, 1, dtype=torch.float64)], dim=2)
    matrix: Tensor = torch.linalg.solve(after, before.expand(len(moves), 3, 2))
    return matrix.transpose(1, 2)

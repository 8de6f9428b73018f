"""RayS: a decision-based attack that searches for the nearest corner direction."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.decision_boundary import DecisionBoundary, Walk
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["RayS"]

_TOLERANCE = 1e-3
"""The l2 length of the bisection's last interval, as in the authors' code."""


class RayS(MinimalNormAttack):
    """RayS: searches the directions whose every entry is 1 or -1 for the one with the nearest boundary.

    The search turns the signs of one block of the direction at a time. One query at the shortest length so far tells whether the
    new direction is better; only then does bisection find its length (algorithm 2). The first block is the whole direction, and
    each stage halves the blocks, down to single numbers (algorithm 3). Nothing is random. Each image has a state of its own, so a
    query of the batch may test a block of one image and bisect for another.
    """

    paper: ClassVar[str] = (
        "Chen, Gu: RayS: A Ray Searching Method for Hard-label Adversarial Attack. KDD 2020, arXiv 2006.12792"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="query budget for each image")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        boundary = DecisionBoundary(source, images, labels, threat, attack="rays")
        return boundary.follow(_Rays(boundary), queries=self.queries)


class _Rays(Walk):
    """The ray of each image: its signs, the shortest length so far, and the block that is being turned.

    Args:
        boundary: Is queried.
    """

    def __init__(self, boundary: DecisionBoundary) -> None:
        numbers = torch.zeros(len(boundary.images), dtype=torch.int64, device=boundary.images.device)
        super().__init__(boundary, boundary.images, numbers.bool())
        self._size = boundary.images[0].numel()
        # Images are in [0, 1], so the longest ray has length 1.
        self._length = numbers.to(torch.float64) + 1
        self._signs = torch.ones_like(boundary.images)
        self._stage, self._block = numbers, numbers.clone()
        self._low, self._bisecting = torch.zeros_like(self._length), numbers.bool()

    def restart(self, points: Tensor, rows: Tensor) -> None:
        super().restart(points, rows)
        length = self.boundary.distance(points.unsqueeze(1)).squeeze(1)
        self._length = torch.where(rows, length, self._length)
        self._bisecting = self._bisecting & ~rows

    def step(self) -> None:
        images = self.boundary.images
        block_size = (self._size / 2**self._stage).ceil().long()
        turned = torch.where(per_image(self._bisecting, images), self._signs, self._with_turned_block(block_size))
        length = torch.where(self._bisecting, (self._low + self._length) / 2, self._length)
        points = (images + per_image(length, images).to(images.dtype) * turned).clamp_(0, 1)
        hit = self.boundary.reaches(points)
        self.reached = self.reached | hit
        self.points = torch.where(per_image(hit, images), points, self.points)
        self._signs = torch.where(per_image(hit, images), turned, self._signs)
        self._length = torch.where(hit, length, self._length)
        # A miss of a bisection moves its lower end; a hit of a test begins a bisection from 0.
        self._low = torch.where(self._bisecting, torch.where(hit, self._low, length), torch.zeros_like(length))
        self._bisecting = (self._bisecting | hit) & (self._length - self._low > _TOLERANCE / math.sqrt(self._size))
        self._next_block(~self._bisecting, block_size)

    def _with_turned_block(self, block_size: Tensor) -> Tensor:
        """The signs with the block turned; blocks of this stage have ``block_size`` ``(N,)`` numbers."""
        block_of_number = torch.arange(self._size, device=self._block.device) // block_size[:, None]
        turned = (block_of_number == self._block[:, None]).view_as(self._signs)
        return torch.where(turned, -self._signs, self._signs)

    def _next_block(self, finished: Tensor, block_size: Tensor) -> None:
        """Goes on to the next block, or to the next stage, of the images ``(N,)`` that are finished with theirs."""
        block = self._block + finished
        last = block * block_size >= self._size
        self._block = torch.where(last, 0, block)
        # The last stage has blocks of single numbers, and is repeated.
        self._stage = (self._stage + last).clamp_max(math.ceil(math.log2(self._size)))

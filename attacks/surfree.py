"""SurFree: a decision-based attack in l2 that estimates no gradient."""

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

__all__ = ["SurFree"]

_LEVELS = 3
"""The angles that are tested on each side: T in the paper."""

_FIRST_ANGLE = math.radians(30)
"""The largest angle at first."""

_LARGEST_ANGLE = math.radians(85)
"""No point beyond this angle is near the boundary: at a right angle, the circle returns to the image."""

_SHRINK = 0.98
"""The factor on the largest angle after a direction without success; its inverse after one with success."""

_PRECISION, _HALVINGS = 0.01, 10
"""The difference of the cosines at which a bisection ends, and its most steps."""


class SurFree(MinimalNormAttack):
    """SurFree: turns the way to the boundary in random planes, along circles through the image.

    A plane has the image, the nearest point of the boundary so far, and a random direction orthogonal to the way and to the
    latest directions. If the boundary were flat, the nearest point of this plane would lie on the circle whose diameter is the
    way (section 4). Angles to both sides are tested, the largest first, and bisection finds the largest angle at which the goal is
    still reached. So every query goes into a point that may be nearer, and none into an estimate of a gradient. Each image has a
    state of its own, so a query of the batch may test an angle of one image and bisect for another.

    The random directions are normally distributed; the authors' code also has some made of low frequencies.

    It starts as ``hopskipjump`` does. So the result of a targeted attack depends on the batch.
    """

    paper: ClassVar[str] = (
        "Maho, Furon, Le Merrer: SurFree: a fast surrogate-free black-box attack. CVPR 2021, arXiv 2011.12807"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="query budget for each image; the start takes some 60 of it")
    remembered: int = Field(
        100, ge=0, description="latest directions that a new one is orthogonal to; at most half of the image's numbers"
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        boundary = DecisionBoundary(source, images, labels, threat, attack="surfree")
        return boundary.follow(_Circles(boundary, self.remembered, random), queries=self.queries)


class _Circles(Walk):
    """The plane of each image, the angles that are tested in it, and the nearest point so far.

    Args:
        boundary: Is queried.
        remembered: The number of directions that are remembered.
        random: Random numbers for each image.
    """

    def __init__(self, boundary: DecisionBoundary, remembered: int, random: Random) -> None:
        super().__init__(boundary, *boundary.start(random))
        # The points at the angles inside.
        self._inside_points = self.points
        self._random = random
        count, size = len(self.points), self.points[0].numel()
        self._directions = self.points.new_zeros(count, min(remembered, size // 2) + 1, size)
        self._used = torch.zeros_like(self.reached, dtype=torch.int64)
        self._largest = self.points.new_full((count,), _FIRST_ANGLE)
        self._tested, self._halvings = self._used.clone(), self._used.clone()
        # The largest angle that reaches the goal, and the next one that does not; 0 and infinity while they are unknown.
        self._inside, self._outside = torch.zeros_like(self._largest), torch.full_like(self._largest, torch.inf)
        self._turn(torch.ones_like(self.reached))

    def restart(self, points: Tensor, rows: Tensor) -> None:
        super().restart(points, rows)
        self._turn(rows)

    def step(self) -> None:
        testing, widening = self._inside == 0, self._outside.isinf()
        side = torch.where(self._tested % 2 == 0, 1.0, -1.0)
        level = self._largest / _LEVELS
        tested = side * (_LEVELS - self._tested // 2) * level
        wider = (self._inside + side * level).clamp(-_LARGEST_ANGLE, _LARGEST_ANGLE)
        angle = torch.where(testing, tested, torch.where(widening, wider, (self._inside + self._outside) / 2))
        points = self._at(angle)
        hit = self.boundary.reaches(points) & self.reached
        self._halvings += ~testing & ~widening
        # Beside the largest angle, the next larger one was tested before, and missed.
        known = testing & hit & (self._tested >= 2)
        missed = ~testing & ~hit
        self._outside = torch.where(known, tested + side * level, torch.where(missed, angle, self._outside))
        self._inside = torch.where(hit, angle, self._inside)
        self._inside_points = torch.where(per_image(hit, points), points, self._inside_points)
        self._tested += testing & ~hit
        self._finish()

    def _finish(self) -> None:
        """Ends the planes in which no angle reached the goal, or in which the largest that does is known."""
        hopeless = self._tested == 2 * _LEVELS
        width = (self._inside.cos() - self._outside.nan_to_num(posinf=math.pi).cos()).abs()
        narrow = self._outside.isfinite() & ((width < _PRECISION) | (self._halvings >= _HALVINGS))
        settled = (self._inside != 0) & (narrow | (self._inside.abs() >= _LARGEST_ANGLE))
        self.points = torch.where(per_image(settled, self.boundary.images), self._inside_points, self.points)
        self._largest = torch.where(settled, self._largest / _SHRINK, self._largest)
        self._largest = torch.where(hopeless, self._largest * _SHRINK, self._largest).clamp_max(_LARGEST_ANGLE)
        self._turn(settled | hopeless)

    def _at(self, angle: Tensor) -> Tensor:
        """The points ``(N, C, H, W)`` of the circles at angles ``(N,)`` from the way."""
        way = (self.points - self.boundary.images).flatten(1)
        distance = way.norm(dim=1, keepdim=True)
        latest = self._directions[torch.arange(len(way), device=way.device), self._slot()]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        moved = cos * (cos * way + sin * distance * latest)
        points: Tensor = (self.boundary.images + moved.view_as(self.boundary.images)).clamp_(0, 1)
        return points

    def _slot(self) -> Tensor:
        """``(N,)``: where the latest direction is kept."""
        return (self._used - 1) % self._directions.shape[1]

    def _turn(self, ended: Tensor) -> None:
        """Draws a new direction for the images ``(N,)`` whose plane has ended."""
        # The numbers of an image must not depend on when the planes of others end.
        fresh = self._random.split()
        rows = ended.nonzero().squeeze(1)
        if not len(rows):
            return
        self._used[rows] += 1
        self._tested[rows], self._halvings[rows] = 0, 0
        self._inside[rows], self._outside[rows] = 0.0, torch.inf
        slot = self._slot()[rows]
        self._directions[rows, slot] = 0
        way = (self.points - self.boundary.images)[rows].flatten(1)
        latest = self._directions[rows]
        direction = fresh.select(rows).normal(way.shape[1:])
        # A matrix product would round an image's numbers differently in another batch.
        along = (latest * direction[:, None]).sum(2, keepdim=True)
        direction = direction - (along * latest).sum(1)
        way = way / way.norm(dim=1, keepdim=True).clamp_min(1e-12)
        direction = direction - (direction * way).sum(1, keepdim=True) * way
        self._directions[rows, slot] = direction / direction.norm(dim=1, keepdim=True)

"""The boundary attack: a random walk along the decision boundary."""

from __future__ import annotations

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

__all__ = ["Boundary"]

_CHECK_EVERY = 10
"""Steps from one query of a point on the sphere alone to the next, as in the authors' code."""

_CHECKS, _MOVES = 10, 30
"""The points on the sphere, and the moves towards the image, from whose successes the sizes of the steps are adapted."""

_AHEAD = 16
"""Steps whose random numbers are drawn at once: few kernels instead of many."""

_FACTOR = 1.5
"""The factor of an adaptation, as in the authors' code."""


class Boundary(MinimalNormAttack):
    """The boundary attack: a random walk along the decision boundary that comes nearer to the image.

    A proposal first goes a normally distributed step along the sphere around the image, and then a step towards the image
    (section 2.2). It is taken if it reaches the goal. Both sizes are relative to the distance and adapt to each image: the step
    along the sphere so that it reaches the goal about every other time, as a flat boundary does, and the step towards the image
    so that the two together do so about every fifth time (section 2.3). It is the oldest decision-based attack, and needs the most
    queries.

    It starts as ``hopskipjump`` does. So the result of a targeted attack depends on the batch.
    """

    paper: ClassVar[str] = (
        "Brendel, Rauber, Bethge: Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning Models. "
        "ICLR 2018, arXiv 1712.04248"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="query budget for each image; the start takes some 60 of it")
    sphere_step: float = Field(0.1, gt=0, description="first step along the sphere, relative to the distance")
    image_step: float = Field(0.03, gt=0, lt=1, description="first step towards the image, relative to the distance")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        boundary = DecisionBoundary(source, images, labels, threat, attack="boundary")
        walk = _RandomWalk(boundary, self.sphere_step, self.image_step, random)
        return boundary.follow(walk, queries=self.queries)


class _RandomWalk(Walk):
    """The point of each image, and the sizes of its steps.

    Args:
        boundary: Is queried.
        sphere_step: The first step along the sphere.
        image_step: The first step towards the image.
        random: Random numbers for each image.
    """

    def __init__(self, boundary: DecisionBoundary, sphere_step: float, image_step: float, random: Random) -> None:
        super().__init__(boundary, *boundary.start(random))
        self._random, self._drawn = random, self.points.new_empty(0)
        zeros = self.points.new_zeros(len(self.points))
        self._sphere_step, self._image_step = zeros + sphere_step, zeros + image_step
        self._on_sphere, self._moved = zeros.clone(), zeros.clone()
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps % _CHECK_EVERY:
            proposed = self._proposed(self._image_step)
            taken = self.boundary.reaches(proposed) & self.reached
            self.points = torch.where(per_image(taken, self.boundary.images), proposed, self.points)
            self._moved += taken
            moves = self._steps - self._steps // _CHECK_EVERY
            if moves % _MOVES == 0:
                self._image_step = _adapted(self._image_step, self._moved / _MOVES, 0.1, 0.25).clamp_max(0.5)
                self._moved = torch.zeros_like(self._moved)
        else:
            self._on_sphere += self.boundary.reaches(self._proposed(torch.zeros_like(self._image_step)))
            if self._steps % (_CHECK_EVERY * _CHECKS) == 0:
                before, rate = self._sphere_step, self._on_sphere / _CHECKS
                self._sphere_step = _adapted(before, rate, 0.2, 0.5)
                # A step towards the image of the same size would seldom succeed after a smaller one along the sphere.
                self._image_step = self._image_step * (self._sphere_step / before)
                self._on_sphere = torch.zeros_like(self._on_sphere)

    def _proposed(self, image_step: Tensor) -> Tensor:
        """Points ``(N, C, H, W)``: a random step along the sphere, and one towards the image."""
        way = (self.points - self.boundary.images).flatten(1)
        squared = way.square().sum(1, keepdim=True).clamp_min(1e-12)
        number = (self._steps - 1) % _AHEAD
        if number == 0:
            self._drawn = self._random.ahead(_AHEAD, draws=2).normal(way.shape[1:])
        step = self._drawn[number]
        step = step - (step * way).sum(1, keepdim=True) / squared * way
        step = step * (self._sphere_step[:, None] * squared.sqrt() / step.norm(dim=1, keepdim=True))
        # Back to the sphere, and then towards its center.
        moved = (way + step) * ((1 - image_step) / (1 + self._sphere_step.square()).sqrt())[:, None]
        points: Tensor = (self.boundary.images + moved.view_as(self.boundary.images)).clamp_(0, 1)
        return points


def _adapted(size: Tensor, rate: Tensor, low: float, high: float) -> Tensor:
    """The sizes ``(N,)``: larger where the rate of successes is above ``high``, smaller where it is below ``low``."""
    return size * torch.where(rate > high, _FACTOR, torch.where(rate < low, 1 / _FACTOR, 1.0))

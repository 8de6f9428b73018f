"""GeoDA: a decision-based minimal-norm attack that takes the boundary for a hyperplane."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.decision_boundary import DecisionBoundary
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["GeoDA"]

_GROWTH = 0.6 ** (-2 / 3)
"""The sample points of an iteration relative to those of the one before it: the rate lambda of section 4.3, with the value of the
authors' code."""

_FIRST_SAMPLES = 50
"""The fewest sample points of the first iteration, as in the authors' code."""

_LENGTHS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.6, 2.0, 3.0, 5.0)
"""Lengths of the way from the image, relative to the distance of the iterate, at which the goal is tested."""


class GeoDA(MinimalNormAttack):
    """GeoDA: estimates the normal of the boundary from decisions, and leaves the image along it.

    Near a point of the boundary, the boundary is nearly flat. So the shortest way from the image to it has the direction of the
    normal in l2, and the signs of the normal in linf. The decisions at random points estimate the normal, the way from the image
    along it is followed up to the boundary, and the next estimate is taken there. Later estimates are nearer to the optimum and
    get more queries, in the geometric series of section 4.3.

    The authors draw the random points from the lowest frequencies of the image. Here they have all frequencies.

    It starts as ``hopskipjump`` does. So the result of a targeted attack depends on the batch.
    """

    paper: ClassVar[str] = (
        "Rahmati, Moosavi-Dezfooli, Frossard, Dai: GeoDA: a geometric framework for black-box adversarial attacks. CVPR 2020, "
        "arXiv 2003.06468"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="query budget for each image; the start takes some 60 of it")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        boundary = DecisionBoundary(source, images, labels, threat, attack="geoda")
        iterates, reached = boundary.start(random)
        cost = len(_LENGTHS) + boundary.cost_of_return
        for samples in _samples(self.queries - boundary.queries, cost):
            normal = boundary.normal(iterates, samples, random)
            outside, reached = _along(boundary, iterates, normal)
            iterates = torch.where(per_image(reached, images), boundary.towards_image(outside, reached), iterates)
            boundary.update(iterates, reached)
        return boundary.confirmed()


def _samples(queries: int, cost: int) -> list[int]:
    """The sample points of each iteration: a geometric series, as long as its first number is at least :data:`_FIRST_SAMPLES`.

    Args:
        queries: The budget of all iterations together.
        cost: The queries of an iteration beside its sample points.

    >>> samples = _samples(1000, 25)
    >>> samples, sum(samples) + 25 * len(samples)
    ([51, 72, 101, 142, 200, 281], 997)
    """
    samples: list[int] = []
    iterations = 1
    while True:
        left = queries - iterations * cost
        first = left * (_GROWTH - 1) / (_GROWTH**iterations - 1)
        if first < _FIRST_SAMPLES:
            return samples
        samples = [int(first * _GROWTH**number) for number in range(iterations)]
        iterations += 1


def _along(boundary: DecisionBoundary, iterates: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest tested points ``(N, C, H, W)`` from the images along the normal that reach the goal, and whether ``(N,)`` any does."""
    distances = boundary.distance(iterates.unsqueeze(1))
    lengths = (distances * torch.tensor(_LENGTHS, device=distances.device)).to(iterates.dtype)
    points = (boundary.images.unsqueeze(1) + lengths[:, :, None, None, None] * normal.unsqueeze(1)).clamp_(0, 1)
    return boundary.first_reached(points)

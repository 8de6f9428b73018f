"""HopSkipJump: a decision-based minimal-norm attack."""

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
from robustbench_cli.attacks.base.search.decision_boundary import HALVINGS, DecisionBoundary
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["HopSkipJump"]

_LENGTHS = tuple(2.0**-k for k in range(10))
"""Step sizes of a jump, relative to ``distance / sqrt(step)``. The longest that reaches the goal is used."""


class HopSkipJump(MinimalNormAttack):
    """HopSkipJump: walks along the decision boundary towards the image, with gradients estimated from decisions alone.

    At a point of the boundary, the decisions at random points around it estimate its normal. A step along the normal leads
    to a point that reaches the goal, and bisection towards the image leads back to the boundary, nearer to the image
    (algorithm 2). All images use the same number of queries at each step, because a line search queries all its points at
    once.

    An untargeted attack starts from constant images, noise and flipped copies of the image, whichever is nearest after a
    coarse search. A targeted attack starts from the nearest image of the batch that is classified as the target, so its
    result depends on the batch.
    """

    paper: ClassVar[str] = (
        "Chen, Jordan, Wainwright: HopSkipJumpAttack: A Query-Efficient Decision-Based Attack. IEEE S&P 2020, arXiv 1904.02144"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="query budget for each image; the start takes some 60 of it")
    initial_samples: int = Field(
        50, ge=2, description="sample points of the first gradient estimate; they grow with the square root of the step"
    )
    gamma: float | None = Field(
        None,
        gt=0,
        exclude_if=lambda gamma: gamma is None,
        description="how precisely the boundary is found, and how far the sample points are, as in the paper for images of any size; "
        "the authors' defaults are gamma=1 with initial_samples=100. By default both follow the distance alone",
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        halvings = HALVINGS if self.gamma is None else _halvings(self.gamma, images, threat)
        boundary = DecisionBoundary(source, images, labels, threat, attack="hopskipjump", halvings=halvings)
        iterates, reached = boundary.start(random)
        step = 1
        while True:
            samples = int(self.initial_samples * math.sqrt(step))
            if boundary.queries + samples + len(_LENGTHS) + boundary.cost_of_return > self.queries:
                return boundary.confirmed()
            normal = boundary.normal(iterates, samples, random, radius=self._radius(boundary, iterates, step))
            outside, reached = _jump(boundary, iterates, normal, step)
            iterates = torch.where(per_image(reached, images), boundary.towards_image(outside, reached), iterates)
            boundary.update(iterates, reached)
            step += 1

    def _radius(self, boundary: DecisionBoundary, iterates: Tensor, step: int) -> Tensor | None:
        """The distance ``(N,)`` of the sample points from the iterates (section V.B of the paper); ``None`` for the default."""
        if self.gamma is None:
            return None
        lengths = boundary.distance(iterates.unsqueeze(1)).squeeze(1).to(iterates.dtype)
        return torch.full_like(lengths, 0.1) if step == 1 else lengths * (self.gamma / iterates[0].numel())


def _halvings(gamma: float, images: Tensor, threat: Threat) -> int:
    """Steps of the bisection down to the share ``gamma / d^1.5`` of the way in l2, and ``gamma / d^2`` in linf, of d pixels."""
    power = 1.5 if threat.norm == "l2" else 2
    return max(1, math.ceil(power * math.log2(images[0].numel()) - math.log2(gamma)))


def _jump(boundary: DecisionBoundary, iterates: Tensor, normal: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A line search along the normal.

    Args:
        boundary: The boundary.
        iterates: ``(N, C, H, W)``.
        normal: ``(N, C, H, W)``, of length 1.
        step: The number of the step, from 1.

    Returns:
        The farthest points ``(N, C, H, W)`` that reach the goal, and whether ``(N,)`` there is one.
    """
    length = boundary.distance(iterates.unsqueeze(1)) / math.sqrt(step)
    lengths = (length * torch.tensor(_LENGTHS, device=length.device)).to(iterates.dtype)
    points = (iterates.unsqueeze(1) + lengths[:, :, None, None, None] * normal.unsqueeze(1)).clamp_(0, 1)
    return boundary.first_reached(points)

"""HopSkipJump: the smallest perturbation, found from decisions alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, steepest_ascent
from robustbench_cli.core.errors import UserError

__all__ = ["HopSkipJump"]

_BLENDS = (0.15, 0.4, 1.0)
"""How far from the image towards each start the goal is looked for."""

_LENGTHS = tuple(2.0**-k for k in range(10))
"""Of a jump, in parts of the distance to the image over the root of the step: the longest that reaches the goal."""

_HALVINGS = 12

_PROBE = 0.01
"""Distance of the points of an estimate from the boundary, in parts of its distance to the image (both in l2).

Of that, :data:`_HALVINGS` leave an error that moves few of the decisions.
"""

_OUTWARD = (1.0005, 1.005, 1.02, 1.1)
"""Lengths, in parts of that of the boundary, at which a sample of draws is asked again."""

_AT_ONCE = 16
"""Points around each image that are held at the same time."""


class HopSkipJump(MinimalNormAttack):
    """Walks along the decision boundary towards the image, with gradients that are estimated from decisions.

    At a point on the boundary the decisions at random points around it tell its normal; a step along that leads to
    where the goal is reached, and halving the way back to the image leads to the boundary again, nearer to the image
    (Algorithm 2). All images take the same number of queries at each step, those of a line search being asked at once.

    An untargeted attack begins at patterns, noise and turned copies of the image, whichever is nearest to it after a
    coarse search. A targeted one begins at the nearest image of the batch that the model takes for the target class, so
    that its result depends on the batch.
    """

    paper: ClassVar[str] = (
        "Chen, Jordan, Wainwright: HopSkipJumpAttack: A Query-Efficient Decision-Based Attack. IEEE S&P 2020, arXiv 1904.02144"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    access: ClassVar[Literal["decisions"]] = "decisions"

    queries: int = Field(5000, ge=1, description="images that the model is asked about at most, for each image")
    initial_samples: int = Field(
        50, ge=2, description="points of the first estimate of a gradient; they grow with the root of the steps"
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        boundary = _Boundary(source, images, labels, threat)
        found, reached = boundary.nearest_start(random)
        iterates = boundary.towards_image(found, reached)
        boundary.keep(iterates, reached)
        step = 1
        while True:
            samples = int(self.initial_samples * math.sqrt(step))
            if boundary.queries + samples + len(_LENGTHS) + boundary.cost_of_return > self.queries:
                return boundary.confirmed()
            normal = boundary.normal(iterates, samples, random)
            outside, reached = boundary.jump(iterates, normal, step)
            iterates = torch.where(per_image(reached, images), boundary.towards_image(outside, reached), iterates)
            boundary.keep(iterates, reached)
            step += 1


class _Boundary:
    """The decisions around every image, and the smallest perturbation that reached the goal so far.

    Args:
        source: Asked for decisions only.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        threat: Its norm and goal are used.
    """

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> None:
        self._source = source
        self._images = images
        self._labels = labels
        self._threat = threat
        self._length = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.best = images.clone()
        self.queries = 0

    def _share(self, points: Tensor) -> Tensor:
        """``(N, P)``, the share of draws that reach the goal at points ``(N, P, C, H, W)``."""
        several = points.shape[1]
        self.queries += several
        decisions = self._source.decisions(points.flatten(0, 1), copies=several)
        same = decisions == self._labels.repeat_interleave(several)
        reached = same if self._threat.targeted else ~same & (decisions != REJECTED)
        return reached.double().mean(0).view(-1, several)

    @property
    def cost_of_return(self) -> int:
        """Queries of :meth:`towards_image`, :meth:`keep` and :meth:`confirmed` together, for each image."""
        return _HALVINGS + 1 + (0 if self._source.exhaustive else Streak.steps * len(_OUTWARD))

    def _distance(self, points: Tensor) -> Tensor:
        """``(N, P)`` distances of points ``(N, P, C, H, W)`` from the images."""
        centres = self._images.unsqueeze(1).expand_as(points)
        return distance(points.flatten(0, 1), centres.flatten(0, 1), self._threat.norm).view(points.shape[:2])

    def _at(self, outside: Tensor, shares: Tensor) -> Tensor:
        """The points ``(N, P, C, H, W)`` at shares ``(N, P)`` of the way from images to ``outside`` ``(N, C, H, W)``.

        In linf the way shortens the longest changes of pixels first.
        """
        difference = (outside - self._images).unsqueeze(1)
        factor = shares.to(difference.dtype)[:, :, None, None, None]
        if self._threat.norm == "linf":
            limit = factor * difference.abs().amax((2, 3, 4), keepdim=True)
            moves = torch.where(factor > 1, factor * difference, difference.clamp(-limit, limit))
        else:
            moves = factor * difference
        return (self._images.unsqueeze(1) + moves).clamp_(0, 1)

    def nearest_start(self, random: Random) -> tuple[Tensor, Tensor]:
        """Points ``(N, C, H, W)`` that reach the goal, and where ``(N,)`` there is one.

        Raises:
            UserError: No start is taken for one of the classes to reach.
        """
        images = self._images
        found, length = images.clone(), torch.full_like(self._length, torch.inf)
        for start in (*_patterns(images, random), *([self._of_the_class()] if self._threat.targeted else [])):
            points = self._at(start, torch.tensor([_BLENDS], device=images.device).expand(len(images), -1))
            lengths = torch.where(self._share(points) == 1, self._distance(points), torch.inf)
            shortest, chosen = lengths.min(1)
            nearer = shortest < length
            point = points[torch.arange(len(images), device=images.device), chosen]
            found, length = torch.where(per_image(nearer, images), point, found), torch.minimum(length, shortest)
        reached = length.isfinite()
        if self._threat.targeted and not bool(reached.all()):
            missing = sorted({*self._labels[~reached].tolist()})
            raise UserError(
                f"hopskipjump has nowhere to start from for class {missing[0]}: the model takes none of the images attacked "
                "together for it; attack more images at once, or another class"
            )
        return found, reached

    def _of_the_class(self) -> Tensor:
        """For every image the nearest of the batch that the model takes for the class to reach, or else itself."""
        decisions = self._source.decisions(self._images)
        self.queries += 1
        of_class = (decisions[:, None, :] == self._labels[None, :, None]).all(0)
        flat = self._images.flatten(1)
        distances = torch.cdist(flat, flat, p=torch.inf if self._threat.norm == "linf" else 2.0)
        nearest, chosen = distances.masked_fill(~of_class, torch.inf).min(1)
        return torch.where(per_image(nearest.isfinite(), self._images), self._images[chosen], self._images)

    def towards_image(self, outside: Tensor, reached: Tensor) -> Tensor:
        """The points of the boundary between the images and ``outside``, on the side where the goal is reached."""
        low, high = torch.zeros_like(self._length), torch.ones_like(self._length)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            reaches = self._share(self._at(outside, middle[:, None])).squeeze(1) == 1
            low, high = torch.where(reaches, low, middle), torch.where(reaches, middle, high)
        return torch.where(per_image(reached, outside), self._at(outside, high[:, None]).squeeze(1), outside)

    def normal(self, iterates: Tensor, samples: int, random: Random) -> Tensor:
        """The direction ``(N, C, H, W)``, of length 1, in which the goal is reached, by so many points around each."""
        width = _PROBE * (iterates - self._images).flatten(1).norm(dim=1)
        decided, moved, total = (torch.zeros_like(iterates), torch.zeros_like(iterates), torch.zeros_like(self._length))
        for start in range(0, samples, _AT_ONCE):
            count = min(_AT_ONCE, samples - start)
            directions = random.normal((count, *iterates.shape[1:]))
            lengths = directions.flatten(2).norm(dim=2) / width[:, None]
            points = (iterates.unsqueeze(1) + directions / lengths[:, :, None, None, None]).clamp_(0, 1)
            moves = points - iterates.unsqueeze(1)
            decision = 2 * self._share(points) - 1
            decided += torch.einsum("np,np...->n...", decision.to(moves.dtype), moves)
            moved += moves.sum(1)
            total += decision.sum(1)
        mean = total / samples
        # Without the mean there is less noise, but nothing is left where all the decisions are the same.
        mean = per_image(torch.where(mean.abs() == 1, 0, mean), iterates).to(iterates.dtype)
        return steepest_ascent(decided - mean * moved, self._threat.norm)

    def jump(self, iterates: Tensor, normal: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The farthest points along the normal that reach the goal, and where ``(N,)`` there is one."""
        length = self._distance(iterates.unsqueeze(1)) / math.sqrt(step)
        lengths = (length * torch.tensor(_LENGTHS, device=length.device)).to(iterates.dtype)
        points = (iterates.unsqueeze(1) + lengths[:, :, None, None, None] * normal.unsqueeze(1)).clamp_(0, 1)
        reaches = self._share(points) == 1
        # Of equal entries the first is found.
        chosen = reaches.int().argmax(1)
        return points[torch.arange(len(points), device=points.device), chosen], reaches.any(1)

    def keep(self, points: Tensor, reached: Tensor) -> None:
        """Keeps points ``(N, C, H, W)`` that are nearer than the best so far, and reach the goal, as ``reached`` says.

        Where the draws are a sample, the points are asked again, and others farther out along the same way.
        """
        candidates = points.unsqueeze(1)
        succeeded = reached[:, None]
        if not self._source.exhaustive:
            candidates = self._at(points, torch.tensor([_OUTWARD], device=points.device).expand(len(points), -1))
            again = torch.stack([self._share(candidates) == 1 for _ in range(Streak.steps)])
            succeeded = succeeded & again.all(0)
        lengths = torch.where(succeeded, self._distance(candidates), torch.inf)
        shortest, chosen = lengths.min(1)
        nearer = shortest < self._length
        point = candidates[torch.arange(len(points), device=points.device), chosen]
        self.best = torch.where(per_image(nearer, points), point, self.best)
        self._length = torch.minimum(self._length, shortest)

    def confirmed(self) -> Tensor:
        """The best points, a little farther out if the goal is still reached there: rounding is to decide nothing."""
        outward = self._at(self.best, torch.full_like(self._length, _OUTWARD[0])[:, None])
        reaches = (self._share(outward) == 1).squeeze(1)
        return torch.where(per_image(reaches & self._length.isfinite(), self.best), outward.squeeze(1), self.best)


def _patterns(images: Tensor, random: Random) -> Iterator[Tensor]:
    """Images ``(N, C, H, W)`` that a model may take for something else, each a function of the image alone."""
    yield from (torch.full_like(images, grey) for grey in (0.0, 0.5, 1.0))
    yield 1 - images
    yield from (images.flip(dimensions) for dimensions in ((2,), (3,), (2, 3)))
    channels, height, width = images.shape[1:]
    for _ in range(3):
        yield random.uniform((channels, height, width))
        coarse = random.integers(2, (channels, 4, 4)).to(images.dtype)
        yield interpolate(coarse, size=(height, width), mode="nearest")
        yield random.integers(2, (channels, 1, width)).to(images.dtype).expand_as(images)

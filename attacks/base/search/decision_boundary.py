"""The decision boundary around a batch of images, found and followed by decisions alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, steepest_ascent
from robustbench_cli.core.errors import UserError

__all__ = ["HALVINGS", "DecisionBoundary", "Walk"]

_BLENDS = (0.15, 0.4, 1.0)
"""Shares of the way from the image to each start at which the goal is tested."""

HALVINGS = 12
"""Steps of the bisection for the boundary, unless the attack sets them."""

_PROBE = 0.01
"""The l2 distance of an estimate's sample points from the iterate, relative to the iterate's distance from the image.

It is large compared with the error that :data:`HALVINGS` bisections leave.
"""

_OUTWARD = (1.0005, 1.005, 1.02, 1.1)
"""Factors on the distance of the boundary at which a sampled model is queried again."""

_AT_ONCE = 16
"""Sample points for each image that are in memory at once."""

_UPDATE_EVERY = 150
"""Queries of a walk between two updates of the best perturbations, if the draws are a sample.

At 500, and without going on from the best ones, SurFree's median distance on a linear model with noisy logits is more than twice as
large.
"""


class Walk(ABC):
    """A search whose every step queries one point for each image.

    Args:
        boundary: Is queried.
        points: ``(N, C, H, W)``, where it begins.
        reached: ``(N,)``, whether these reach the goal.

    Attributes:
        points: ``(N, C, H, W)``, the nearest points so far.
        reached: ``(N,)``, whether they reach the goal.
    """

    def __init__(self, boundary: DecisionBoundary, points: Tensor, reached: Tensor) -> None:
        self.boundary = boundary
        self.points, self.reached = points, reached

    @abstractmethod
    def step(self) -> None:
        """Queries the next points."""

    def restart(self, points: Tensor, rows: Tensor) -> None:
        """Goes on from confirmed points.

        Args:
            points: ``(N, C, H, W)``.
            rows: ``(N,)``, whether there is one.
        """
        self.points = torch.where(per_image(rows, points), points, self.points)


class DecisionBoundary:
    """The decision boundary around every image, and the smallest successful perturbation so far.

    Args:
        source: Queried for decisions only.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        threat: Its norm and goal are used.
        attack: The name of the attack, for messages.
        halvings: Steps of the bisection for the boundary.

    Attributes:
        images: ``(N, C, H, W)``.
        best: ``(N, C, H, W)``, the nearest images that reach the goal; the images themselves where there is none.
        queries: The number of queries for each image.
    """

    def __init__(
        self,
        source: GradientSource,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        *,
        attack: str,
        halvings: int = HALVINGS,
    ) -> None:
        self._source = source
        self.images = images
        self._labels = labels
        self._threat = threat
        self._attack = attack
        self._halvings = halvings
        self._length = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.best = images.clone()
        self.queries = 0

    def success_rate(self, points: Tensor) -> Tensor:
        """The share ``(N, P)`` of draws that reach the goal at points ``(N, P, C, H, W)``."""
        count = points.shape[1]
        self.queries += count
        decisions = self._source.decisions(points.flatten(0, 1), copies=count)
        same = decisions == self._labels.repeat_interleave(count)
        reached = same if self._threat.targeted else ~same & (decisions != REJECTED)
        return reached.double().mean(0).view(-1, count)

    def reaches(self, points: Tensor) -> Tensor:
        """Whether ``(N,)`` every draw reaches the goal at points ``(N, C, H, W)``, one for each image."""
        return self.success_rate(points.unsqueeze(1)).squeeze(1) == 1

    @property
    def cost_of_update(self) -> int:
        """Queries of :meth:`update` and :meth:`confirmed` together, for each image."""
        return 1 + (0 if self._source.exhaustive else Streak.steps * len(_OUTWARD))

    @property
    def cost_of_return(self) -> int:
        """Queries of :meth:`towards_image`, :meth:`update` and :meth:`confirmed` together, for each image."""
        return self._halvings + self.cost_of_update

    def distance(self, points: Tensor) -> Tensor:
        """The distances ``(N, P)`` of points ``(N, P, C, H, W)`` from the images."""
        centers = self.images.unsqueeze(1).expand_as(points)
        return distance(points.flatten(0, 1), centers.flatten(0, 1), self._threat.norm).view(points.shape[:2])

    def at(self, outside: Tensor, shares: Tensor) -> Tensor:
        """Points between the images and other points: on a line in l2, and by clipping the largest changes in linf.

        Args:
            outside: ``(N, C, H, W)``.
            shares: ``(N, P)``, 0 for the image and 1 for ``outside``.

        Returns:
            ``(N, P, C, H, W)``.
        """
        difference = (outside - self.images).unsqueeze(1)
        factor = shares.to(difference.dtype)[:, :, None, None, None]
        if self._threat.norm == "linf":
            limit = factor * difference.abs().amax((2, 3, 4), keepdim=True)
            moves = torch.where(factor > 1, factor * difference, difference.clamp(-limit, limit))
        else:
            moves = factor * difference
        return (self.images.unsqueeze(1) + moves).clamp_(0, 1)

    def first_reached(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The first of some points that reaches the goal.

        Args:
            points: ``(N, P, C, H, W)``.

        Returns:
            The points ``(N, C, H, W)``, and whether ``(N,)`` there is one; else it is the first of all.
        """
        reached = self.success_rate(points) == 1
        # argmax returns the first of equal entries.
        chosen = reached.int().argmax(1)
        return points[torch.arange(len(points), device=points.device), chosen], reached.any(1)

    def _nearest_start(self, random: Random) -> tuple[Tensor, Tensor]:
        """Starting points ``(N, C, H, W)`` that reach the goal, and whether ``(N,)`` there is one.

        Raises:
            UserError: No start is classified as one of the target classes.
        """
        images = self.images
        starts, length = images.clone(), torch.full_like(self._length, torch.inf)
        for start in (*_patterns(images, random), *([self._of_the_class()] if self._threat.targeted else [])):
            points = self.at(start, torch.tensor([_BLENDS], device=images.device).expand(len(images), -1))
            lengths = torch.where(self.success_rate(points) == 1, self.distance(points), torch.inf)
            shortest, chosen = lengths.min(1)
            nearer = shortest < length
            point = points[torch.arange(len(images), device=images.device), chosen]
            starts, length = torch.where(per_image(nearer, images), point, starts), torch.minimum(length, shortest)
        reached = length.isfinite()
        if self._threat.targeted and not bool(reached.all()):
            missing = sorted({*self._labels[~reached].tolist()})
            raise UserError(
                f"{self._attack} has no starting point for class {missing[0]}: the model assigns none of the images of this batch "
                "to it; attack more images at once, or another class"
            )
        return starts, reached

    def _of_the_class(self) -> Tensor:
        """For every image, the nearest image of the batch that is classified as the target, or else the image itself."""
        decisions = self._source.decisions(self.images)
        self.queries += 1
        of_class = (decisions[:, None, :] == self._labels[None, :, None]).all(0)
        flat = self.images.flatten(1)
        distances = torch.cdist(flat, flat, p=torch.inf if self._threat.norm == "linf" else 2.0)
        nearest, chosen = distances.masked_fill(~of_class, torch.inf).min(1)
        return torch.where(per_image(nearest.isfinite(), self.images), self.images[chosen], self.images)

    def start(self, random: Random) -> tuple[Tensor, Tensor]:
        """Points ``(N, C, H, W)`` of the boundary next to the nearest starts, and whether ``(N,)`` there is one.

        Both the starts and these points update the best perturbations.

        Raises:
            UserError: No start is classified as one of the target classes.
        """
        starts, reached = self._nearest_start(random)
        # Some draws of a sampled model may not reach the goal next to the boundary, but all may at the start.
        self.update(starts, reached)
        iterates = self.towards_image(starts, reached)
        self.update(iterates, reached)
        return iterates, reached

    def towards_image(self, outside: Tensor, reached: Tensor) -> Tensor:
        """Bisects for the points of the boundary between the images and ``outside``, on its adversarial side.

        Args:
            outside: ``(N, C, H, W)``, points that reach the goal.
            reached: ``(N,)``, whether they do. Other points are returned as they are.
        """
        low, high = torch.zeros_like(self._length), torch.ones_like(self._length)
        for _ in range(self._halvings):
            middle = (low + high) / 2
            reaches = self.reaches(self.at(outside, middle[:, None]).squeeze(1))
            low, high = torch.where(reaches, low, middle), torch.where(reaches, middle, high)
        return torch.where(per_image(reached, outside), self.at(outside, high[:, None]).squeeze(1), outside)

    def normal(self, iterates: Tensor, samples: int, random: Random, *, radius: Tensor | None = None) -> Tensor:
        """Estimates the normal of the decision boundary by Monte Carlo sampling, with the mean decision as a baseline.

        Args:
            iterates: ``(N, C, H, W)``, points of the boundary.
            samples: Number of sample points for each.
            random: Random numbers for each image.
            radius: ``(N,)``, the l2 distance of the sample points from the iterates; by default in proportion to the distance of
                the iterate from the image.

        Returns:
            ``(N, C, H, W)``, the steepest direction towards the goal, of length 1 in the norm of the threat.
        """
        if radius is None:
            radius = _PROBE * (iterates - self.images).flatten(1).norm(dim=1)
        weighted, shifts, total = (
            torch.zeros_like(iterates),
            torch.zeros_like(iterates),
            torch.zeros_like(self._length),
        )
        for start in range(0, samples, _AT_ONCE):
            count = min(_AT_ONCE, samples - start)
            directions = random.normal((count, *iterates.shape[1:]))
            lengths = directions.flatten(2).norm(dim=2) / radius[:, None]
            points = (iterates.unsqueeze(1) + directions / lengths[:, :, None, None, None]).clamp_(0, 1)
            shift = points - iterates.unsqueeze(1)
            decision = 2 * self.success_rate(points) - 1
            weighted += torch.einsum("np,np...->n...", decision.to(shift.dtype), shift)
            shifts += shift.sum(1)
            total += decision.sum(1)
        mean = total / samples
        # Subtracting the mean lowers the variance, but leaves nothing where all decisions agree.
        mean = per_image(torch.where(mean.abs() == 1, 0, mean), iterates).to(iterates.dtype)
        return steepest_ascent(weighted - mean * shifts, self._threat.norm)

    def update(self, points: Tensor, reached: Tensor) -> None:
        """Updates the best perturbations.

        For a sampled model, the points are evaluated again several times, and so are others farther out on the same line.

        Args:
            points: ``(N, C, H, W)``.
            reached: ``(N,)``, whether they reach the goal.
        """
        candidates = points.unsqueeze(1)
        succeeded = reached[:, None]
        if not self._source.exhaustive:
            candidates = self.at(points, torch.tensor([_OUTWARD], device=points.device).expand(len(points), -1))
            repeated = torch.stack([self.success_rate(candidates) == 1 for _ in range(Streak.steps)])
            succeeded = succeeded & repeated.all(0)
        lengths = torch.where(succeeded, self.distance(candidates), torch.inf)
        shortest, chosen = lengths.min(1)
        nearer = shortest < self._length
        point = candidates[torch.arange(len(points), device=points.device), chosen]
        self.best = torch.where(per_image(nearer, points), point, self.best)
        self._length = torch.minimum(self._length, shortest)

    def confirmed(self) -> Tensor:
        """The best points, moved slightly outwards where the goal is still reached, so that rounding cannot undo a success."""
        outward = self.at(self.best, torch.full_like(self._length, _OUTWARD[0])[:, None]).squeeze(1)
        reaches = self.reaches(outward) & self._length.isfinite()
        return torch.where(per_image(reaches, self.best), outward, self.best)

    def follow(self, walk: Walk, *, queries: int) -> Tensor:
        """Takes the steps of a walk until each image has used its budget.

        Args:
            walk: The walk.
            queries: The budget for each image, earlier queries included.

        Returns:
            ``(N, C, H, W)``, the best perturbed images.
        """
        updated = self.queries
        while (left := queries - self.queries) > self.cost_of_update:
            due = not self._source.exhaustive and self.queries - updated >= _UPDATE_EVERY
            if due and left > 2 * self.cost_of_update:
                self.update(walk.points, walk.reached)
                # Lucky draws lead a walk away from the boundary, and from there no step succeeds but by luck.
                walk.restart(self.best, self._length.isfinite())
                updated = self.queries
            walk.step()
        self.update(walk.points, walk.reached)
        return self.confirmed()


def _patterns(images: Tensor, random: Random) -> Iterator[Tensor]:
    """Starting points ``(N, C, H, W)`` that are often classified differently; each depends on its own image only."""
    yield from (torch.full_like(images, gray) for gray in (0.0, 0.5, 1.0))
    yield 1 - images
    yield from (images.flip(dimensions) for dimensions in ((2,), (3,), (2, 3)))
    channels, height, width = images.shape[1:]
    for _ in range(3):
        yield random.uniform((channels, height, width))
        coarse = random.integers(2, (channels, 4, 4)).to(images.dtype)
        yield interpolate(coarse, size=(height, width), mode="nearest")
        yield random.integers(2, (channels, 1, width)).to(images.dtype).expand_as(images)

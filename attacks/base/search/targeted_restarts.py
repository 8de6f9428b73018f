"""Restarts of a minimal-norm search: towards several classes, from the image and from random points far from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.adaptive_radius import AdaptiveRadius, diameter
from robustbench_cli.attacks.base.search.boundary_steps import BoundarySteps
from robustbench_cli.attacks.base.search.linearization import Plane, by_boundary_distance, plane_of_goal
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Shortfall
from robustbench_cli.attacks.base.search.polish import polish
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat

__all__ = ["TargetedRestarts", "targeted_restarts_field"]

_FIRST_CLASSES = 9
"""The number of classes of the first restart, which are those with the largest logits.

AutoAttack's targeted attacks have nine target classes too. The other numbers of this module, and those of the polish, were
tuned on small networks with known distances. docs/attacks.md compares the results with the exact distances of other images.
"""

_SHRINK = 0.97
"""The first radius of a restart, relative to the smallest perturbation so far."""


class _Budget(NamedTuple):
    """The number of classes of a restart, and of its steps towards each."""

    classes: int
    steps: int

    @classmethod
    def of(cls, norm: Norm, *, first: bool) -> _Budget:
        if first:
            return cls(_FIRST_CLASSES, 40 if norm == "l1" else 20)
        return cls(3, 20) if norm == "l1" else cls(5, 10)


def targeted_restarts_field() -> Any:
    """The field ``targeted_restarts`` of an attack: the number of :class:`TargetedRestarts`, 0 by default."""
    return Field(
        0,
        ge=0,
        description="number of further searches for a smaller perturbation: the first from the image, with 20 gradients for "
        "each of nine classes, the others from random points, with 10 for each of five; in l1 40 for nine and 20 for three",
        # Cells without restarts are older than the field.
        exclude_if=lambda count: count == 0,
    )


@dataclass(frozen=True, kw_only=True)
class TargetedRestarts:
    """Searches for smaller perturbations than the smallest one so far, near other local minima of the distance.

    A run that begins at the image follows one class boundary to one local minimum. Each restart runs towards several
    classes at the same time. The first restart begins at the image and runs towards the nine classes with the largest
    logits, with 20 steps for each. The others take 10 steps towards the five of them with the nearest linearized
    boundaries. They begin at random points of the box, projected onto a ball that is a little smaller than the smallest
    perturbation so far. These points are far apart from each other. The steps are those of
    :class:`~robustbench_cli.attacks.base.search.adaptive_radius.AdaptiveRadius` down the margin to the class. A
    :func:`~robustbench_cli.attacks.base.search.polish.polish` follows.

    In l1 the steps are those of :class:`~robustbench_cli.attacks.base.search.boundary_steps.BoundarySteps`: 40 for each of
    the nine classes, and in the other restarts 20 for each of three. The nearest point differs from the image in few pixels.
    A local minimum differs from it in other ones. So the first half of the steps after a random start moves only a random
    half of the pixels.

    Attributes:
        count: The number of restarts.
        threat: The norm, and whether the labels are the classes to reach; then they are the only targets.
    """

    count: int
    threat: Threat

    def run(
        self, source: GradientSource, images: Tensor, labels: Tensor, best: BestPerturbation, random: Random
    ) -> None:
        """Adds the smallest perturbations of all restarts to ``best``.

        Args:
            source: Computes the gradients.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
            best: The smallest perturbations so far.
            random: A stream of random numbers for each image.
        """
        if not self.count:
            return
        targets = labels[:, None] if self.threat.targeted else self._nearest_classes(source, images, labels)
        for restart in range(self.count):
            radius = (_SHRINK * best.distance).clamp_max(diameter(images, self.threat.norm))
            start, pixels = self._random_start(images, radius, random) if restart else (images, None)
            budget = _Budget.of(self.threat.norm, first=not restart)
            chosen = targets[:, : budget.classes]
            before, searches = source.queries, []
            for part in source.size.slices(chosen.shape[1], cost=source.cost * len(images)):
                # Classes that take turns get the draws and the radii that they would have together.
                source.queries = before
                runs = _Runs(source, images, labels, self.threat, chosen, part)
                searches.append(runs.search(best, start, radius, steps=budget.steps, pixels=pixels))
            for search in searches:
                best.keep_nearest_of(search)
            if source.exhaustive:
                # The next restart begins at a smaller radius.
                best.shorten()
        polish(source, images, labels, best)

    def _random_start(self, images: Tensor, radius: Tensor, random: Random) -> tuple[Tensor, Tensor | None]:
        """Points ``(N, C, H, W)`` of the balls, and in l1 the random half of the entries in which they differ from the image."""
        ball = FeasibleSet(images, Threat(norm=self.threat.norm, eps=radius))
        start = ball.project(random.uniform(images.shape[1:]).to(images))
        if self.threat.norm != "l1":
            return start, None
        pixels = random.uniform(images.shape[1:]) < 0.5
        return torch.where(pixels, start, images), pixels

    def _nearest_classes(self, source: GradientSource, images: Tensor, labels: Tensor) -> Tensor:
        """``(N, T)``, the classes of the first restart, those with the nearest linearized boundaries first."""
        others = source.logits(images).mean(0).scatter(1, labels[:, None], -torch.inf)
        likeliest = others.topk(min(_FIRST_CLASSES, others.shape[1] - 1), dim=1).indices
        classes = torch.cat([labels[:, None], likeliest], 1)
        return by_boundary_distance(source, images, classes, self.threat.norm)[:, 1:]


class _Runs:
    """A restart towards the targets ``part`` of ``(N, T)``, with a row for each image and target."""

    def __init__(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, targets: Tensor, part: slice
    ) -> None:
        chosen = targets[:, part]
        self._source, self._threat = source, threat
        self._count = chosen.shape[1]
        self._images, self._labels, self._targets = self._repeated(images), self._repeated(labels), chosen.flatten()
        self._rows = self._repeated(torch.arange(len(images), device=images.device))
        self._copies = torch.arange(part.start, part.stop, device=images.device).repeat(len(images))

    def _repeated(self, values: Tensor) -> Tensor:
        """``(N * count, ...)`` of ``(N, ...)``: the rows of one image are adjacent."""
        return values.repeat_interleave(self._count, 0)

    def search(
        self, best: BestPerturbation, start: Tensor, radius: Tensor, *, steps: int, pixels: Tensor | None
    ) -> BestPerturbation:
        """The smallest perturbations of each row, where they are smaller than ``best``; else those of ``best``.

        Args:
            best: The smallest perturbations of the N images so far.
            start: ``(N, C, H, W)``.
            radius: ``(N,)``, the first radii; not in l1.
            steps: The number of steps.
            pixels: ``(N, C, H, W)`` bool, the entries that the first half of the steps moves, in l1 only; ``None`` for all.
        """
        smallest = BestPerturbation(
            self._source,
            self._images,
            self._labels,
            best.norm,
            best.goal,
            rows=self._rows,
            copies=self._copies,
        )
        smallest.start_from(self._repeated(best.images), self._repeated(best.succeeded()))
        towards, start = replace(best.goal, targeted=True), self._repeated(start)

        def plane_at(iterates: Tensor) -> tuple[Shortfall, Plane]:
            missing, plane = plane_of_goal(
                self._source, iterates, self._targets, towards, rows=self._rows, copies=self._copies
            )
            return smallest.shortfall(missing.logits, missing.tolerance), plane

        def gradient_at(iterates: Tensor) -> tuple[Shortfall, Tensor, Tensor]:
            missing, gradient = towards.gradient(
                self._source, iterates, self._targets, rows=self._rows, copies=self._copies
            )
            return smallest.shortfall(missing.logits, missing.tolerance), missing.mean(), gradient

        if best.norm == "l1":
            moved = None if pixels is None else self._repeated(pixels)
            BoundarySteps(steps=steps).descend(start, self._images, plane_at, smallest, pixels=moved)
        else:
            # The first step and gamma are those of FMN.
            search = AdaptiveRadius(steps=steps, step_size=0.5, gamma=0.05, gamma_final=0.001)
            search.descend(start, self._images, self._repeated(radius), gradient_at, smallest)
        return smallest

"""Auto-PGD (APGD): what its attacks share; they differ in the loss that they climb."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import Loss
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import (
    Threat,
    per_image,
    project,
    random_in_ball,
    sparse_ascent,
    steepest_ascent,
)

__all__ = ["APGD"]


class APGD(FixedRadiusAttack):
    """Projected gradient descent that chooses its own step sizes, for each image by itself.

    In linf and l2 it is Algorithm 1 of Croce and Hein (ICML 2020): momentum, and a step size that begins at twice the
    radius and is halved at checkpoints where too few steps have increased the loss, or nothing has changed since the
    last one; the search then goes on from the best point. In l1 it is their algorithm for the ball cut with the box
    (ICML 2021): a step is spread over the pixels of the largest slopes, whose number follows how many the best point
    has changed, and the first six tenths of the steps are taken in balls of three times and twice the radius.

    Of all iterates of all restarts the one with the smallest expected margin is returned. An image that has fallen in
    every draw there is leaves the batch.
    """

    paper: ClassVar[str] = (
        "Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks. "
        "ICML 2020, arXiv 2003.01690; in l1 their Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image "
        "Classifiers. ICML 2021, arXiv 2103.01208"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(100, ge=1, description="steps of each run")
    restarts: int = Field(1, ge=1, description="runs from different random starts; only what still stands is run again")
    rho: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="share of the steps between two checkpoints that has to increase the loss, or the step size is "
        "halved; in linf and l2",
    )

    @abstractmethod
    def loss(self, threat: Threat) -> Loss:
        """What the steps climb (descend, if the threat is targeted), of logits and what :meth:`climb` has as labels."""

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        for rows, stream in best.restarts(self.restarts, random):
            self.climb(source, images[rows], labels[rows], threat.select(rows), stream, best)
        return best.images

    def climb(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, best: BestIterates
    ) -> None:
        """Runs once from a random start.

        Args:
            source: Where the gradients come from.
            images: ``(n, C, H, W)``, those of ``best.rows``.
            labels: ``(n,)``, or ``(n, m)`` if :meth:`loss` needs to know more; see
                :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.gradient`.
            threat: Of these images.
            random: Of these images.
            best: Is offered every iterate.
        """
        kind = _SparseClimb if threat.norm == "l1" else _DenseClimb
        stages = kind.stages(self.steps)
        widest = replace(threat, eps=stages[0][0] * threat.eps)
        point = images + random_in_ball(images, widest, random)
        for radii, steps in stages:
            ball = replace(threat, eps=radii * threat.eps)
            climb = kind(project(point, images, ball), images, labels, ball)
            # Outside the threat's own ball there is nothing to be kept, and nothing has fallen.
            self._take_steps(climb, steps, source, best if radii == 1 else None)
            point = climb.top

    def _take_steps(self, climb: _Climb, steps: int, source: GradientSource, best: BestIterates | None) -> None:
        loss, checkpoints = self.loss(climb.threat), climb.checkpoints(steps)
        for step in range(steps):
            logits, gradient = source.gradient(climb.iterates, climb.labels, loss)
            climb.take(_mean_loss(loss, logits, climb.labels), gradient)
            going_on = best.offer(climb.iterates, logits) if best else None
            if going_on is not None:
                if not len(going_on):
                    return
                climb = climb.select(going_on)
            if step in checkpoints:
                climb.adapt(self.rho * checkpoints[step])
            climb.move()
        if best:
            best.offer(climb.iterates, source.logits(climb.iterates))


def _mean_loss(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """``(n,)`` means over the draws of logits ``(D, n, K)``."""
    draws = len(logits)
    return loss(logits.flatten(0, 1), labels.expand(draws, *labels.shape).flatten(0, 1)).view(draws, -1).mean(0)


class _Climb(ABC):
    """Where a run stands, for each of n images by itself.

    Args:
        start: ``(n, C, H, W)``, the first iterates.
        images: ``(n, C, H, W)``.
        labels: See :meth:`APGD.climb`.
        threat: Of the images.
        step_size: Of the first step, in radii.
    """

    def __init__(self, start: Tensor, images: Tensor, labels: Tensor, threat: Threat, *, step_size: float) -> None:
        self.images, self.labels, self.threat = images, labels, threat
        self.iterates = self.top = start
        self.gradient = self.top_gradient = torch.zeros_like(start)
        radii = threat.eps.to(images.dtype)
        self.value, self.top_value = torch.full_like(radii, torch.inf), torch.full_like(radii, -torch.inf)
        self.step_size = step_size * radii

    @staticmethod
    def stages(steps: int) -> list[tuple[int, int]]:
        """The balls of a run, the threat's own last: each in its radii, with the number of steps inside it."""
        return [(1, steps)]

    @staticmethod
    @abstractmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """The steps before which :meth:`adapt` is called, each with the number of steps since the one before it."""

    @abstractmethod
    def adapt(self, needed: float) -> None:
        """Chooses the size of the next steps; ``needed`` of those since the last time should have gone up."""

    @abstractmethod
    def move(self) -> None:
        """Takes a step."""

    def take(self, loss: Tensor, gradient: Tensor) -> None:
        """Takes the loss ``(n,)`` and its gradient at the iterates."""
        sign = -1 if self.threat.targeted else 1
        self.value, self.gradient = sign * loss, sign * gradient
        self.keep(self.value > self.top_value)

    def keep(self, higher: Tensor) -> None:
        """Makes the iterates the top where they are ``higher`` ``(n,)``."""
        pixels = per_image(higher, self.images)
        self.top = torch.where(pixels, self.iterates, self.top)
        self.top_gradient = torch.where(pixels, self.gradient, self.top_gradient)
        self.top_value = torch.where(higher, self.value, self.top_value)

    def return_to_top(self, where: Tensor) -> None:
        """Goes on from the top where ``where`` ``(n,)`` says so."""
        pixels = per_image(where, self.images)
        self.iterates = torch.where(pixels, self.top, self.iterates)
        self.gradient = torch.where(pixels, self.top_gradient, self.gradient)
        self.value = torch.where(where, self.top_value, self.value)

    def select(self, rows: Tensor) -> Self:
        """The run for the images ``rows`` alone."""
        chosen = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(chosen, name, value[rows])
        chosen.threat = self.threat.select(rows)
        return chosen


class _DenseClimb(_Climb):
    """Algorithm 1 of Croce and Hein (ICML 2020)."""

    def __init__(self, start: Tensor, images: Tensor, labels: Tensor, threat: Threat) -> None:
        super().__init__(start, images, labels, threat, step_size=2)
        self.before: Tensor | None = None
        self.increases = torch.zeros_like(self.step_size)
        self.marked_value = self.top_value
        self.halved = torch.zeros_like(self.step_size, dtype=torch.bool)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        # In hundredths, so that no rounding error leads to the next step.
        marks, length = [0, 22], 22
        while marks[-1] < 100:
            length = max(length - 3, 6)
            marks.append(marks[-1] + length)
        at = [-(-mark * steps // 100) for mark in marks]
        return {after: after - first for first, after in pairwise(at)}

    def take(self, loss: Tensor, gradient: Tensor) -> None:
        before = self.value
        super().take(loss, gradient)
        self.increases += self.value > before

    def adapt(self, needed: float) -> None:
        stuck = ~self.halved & (self.top_value <= self.marked_value)
        self.halved = (self.increases < needed) | stuck
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.return_to_top(self.halved)
        self.marked_value = self.top_value
        self.increases = torch.zeros_like(self.increases)

    def move(self) -> None:
        step = steepest_ascent(self.gradient, self.threat.norm) * per_image(self.step_size, self.images)
        after = project(self.iterates + step, self.images, self.threat)
        if self.before is not None:
            momentum = 0.75 * (after - self.iterates) + 0.25 * (self.iterates - self.before)
            after = project(self.iterates + momentum, self.images, self.threat)
        self.before, self.iterates = self.iterates, after


class _SparseClimb(_Climb):
    """The l1 version of Croce and Hein (ICML 2021, section 3), whose first steps are taken in larger balls."""

    def __init__(self, start: Tensor, images: Tensor, labels: Tensor, threat: Threat) -> None:
        super().__init__(start, images, labels, threat, step_size=1)
        self.longest = self.step_size
        self.changed = self.count_changed(start)
        self.moved = (self.changed / 1.5).clamp_max(images[0].numel() / 5)

    @staticmethod
    def stages(steps: int) -> list[tuple[int, int]]:
        wide = 3 * steps // 10
        return [(3, wide), (2, wide), (1, steps - 2 * wide)] if wide else [(1, steps)]

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        length = math.ceil(0.04 * steps)
        return dict.fromkeys(range(length, steps, length), length)

    def adapt(self, needed: float) -> None:
        changed = self.count_changed(self.top)
        sparser = changed < 0.95 * self.changed
        shorter = torch.maximum(self.step_size / 1.5, self.longest / 10)
        self.step_size = torch.where(sparser, self.longest, shorter)
        self.return_to_top(sparser)
        self.changed, self.moved = changed, changed / 1.5

    def count_changed(self, perturbed: Tensor) -> Tensor:
        """``(n,)`` pixels, channels counted by themselves, that are not the images'."""
        return (perturbed != self.images).flatten(1).sum(1).to(self.images.dtype)

    def move(self) -> None:
        direction = sparse_ascent(self.gradient, self.iterates, self.moved)
        step = direction * per_image(self.step_size, self.images)
        self.iterates = project(self.iterates + step, self.images, self.threat)

"""Auto-PGD (APGD), the search that the APGD attacks share; they differ in the loss that they maximize.

Each image has its own step size and its own best point, the point of the highest loss so far. At fixed checkpoints the
step size shrinks if the loss has not increased often enough, and the search returns to the best point. The state of a
run is a :class:`_Run`; :class:`_DenseRun` has the rules for linf and l2, :class:`_SparseRun` those for l1.
"""

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
from robustbench_cli.attacks.base.losses import Loss, mean_over_draws
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import (
    FeasibleSet,
    Threat,
    per_image,
    random_in_ball,
    sparse_ascent,
    steepest_ascent,
)

__all__ = ["APGD"]


class APGD(FixedRadiusAttack):
    """Projected gradient descent with an adaptive step size for each image.

    In linf and l2, it is Algorithm 1 of Croce and Hein (ICML 2020). It uses momentum and a step size that starts at twice
    the radius. At a checkpoint, the step size is halved if too few steps have increased the loss, or if neither the step
    size nor the best loss has changed since the last checkpoint. The search then continues from the best point.

    In l1, it is their algorithm for the intersection of the ball and the box (ICML 2021). A step moves the entries with the
    largest slopes. Their number depends on how many entries the best point has changed. The first six tenths of the steps
    are taken in balls of three times and twice the radius.

    The result is the iterate with the smallest expected margin over all restarts. If the draws are exhaustive, an image
    leaves the batch once every draw is broken.
    """

    paper: ClassVar[str] = (
        "Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks. "
        "ICML 2020, arXiv 2003.01690; in l1 their Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image "
        "Classifiers. ICML 2021, arXiv 2103.01208"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(100, ge=1, description="steps of each run")
    restarts: int = Field(
        1, ge=1, description="runs from different random starts; later runs attack unbroken images only"
    )
    rho: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="smallest share of steps between two checkpoints that must increase the loss, or the step size is "
        "halved; in linf and l2",
    )

    @abstractmethod
    def loss(self, threat: Threat) -> Loss:
        """The loss that the steps maximize, or minimize if the threat is targeted; its labels are those of :meth:`climb`."""

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        for rows, stream in best.restarts(self.restarts, random):
            self.climb(source, images[rows], labels[rows], threat.select(rows), stream, best)
        return best.images

    def climb(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, best: BestIterates
    ) -> None:
        """Runs once from a random start, and offers every iterate.

        Args:
            source: Computes the gradients.
            images: ``(n, C, H, W)``, those of ``best.rows``, which may repeat an image.
            labels: ``(n,)``. If :meth:`loss` needs more numbers per row, ``(n, m)``; see
                :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.gradient`.
            threat: The threat of these images.
            random: The random numbers of these images.
            best: Receives the iterates.
        """
        kind = _SparseRun if threat.norm == "l1" else _DenseRun
        stages = kind.stages(self.steps)
        widest = replace(threat, eps=stages[0][0] * threat.eps)
        point = images + random_in_ball(images, widest, random)
        for radii, steps in stages:
            ball = replace(threat, eps=radii * threat.eps)
            feasible = FeasibleSet(images, ball)
            run = kind(feasible.project(point), labels, feasible)
            # Iterates outside the threat's own ball are no successes.
            self._take_steps(run, steps, source, best, offers=radii == 1)
            point = run.top

    def _take_steps(self, run: _Run, steps: int, source: GradientSource, best: BestIterates, *, offers: bool) -> None:
        loss, checkpoints = self.loss(run.feasible.threat), run.checkpoints(steps)
        for step in range(steps):
            logits, values, gradient = source.values_and_gradient(
                run.iterates, run.labels, loss, rows=best.rows, copies=best.copies
            )
            run.record(mean_over_draws(values), gradient)
            remaining = best.offer(run.iterates, logits) if offers else None
            if remaining is not None:
                if not len(remaining):
                    return
                run = run.select(remaining)
            if step in checkpoints:
                run.adapt(self.rho * checkpoints[step])
            run.move()
        if offers:
            best.offer(run.iterates, source.logits(run.iterates, rows=best.rows, copies=best.copies))


class _Run(ABC):
    """The state of a run for n rows.

    Args:
        start: ``(n, C, H, W)``, the first iterates.
        labels: See :meth:`APGD.climb`.
        feasible: The feasible sets of these rows.
        step_size: The first step size, in multiples of the radius.

    Attributes:
        iterates: ``(n, C, H, W)``, the current points, with their ``gradient`` and their loss ``value``.
        top: ``(n, C, H, W)``, the points of the highest loss so far, with ``top_gradient`` and ``top_value``.
        step_size: ``(n,)``, on the [0, 1] pixel scale.
    """

    def __init__(self, start: Tensor, labels: Tensor, feasible: FeasibleSet, *, step_size: float) -> None:
        self.labels, self.feasible = labels, feasible
        self.iterates = self.top = start
        self.gradient = self.top_gradient = torch.zeros_like(start)
        radii = feasible.threat.eps.to(start.dtype)
        self.value, self.top_value = torch.full_like(radii, torch.inf), torch.full_like(radii, -torch.inf)
        self.step_size = step_size * radii

    @staticmethod
    def stages(steps: int) -> list[tuple[int, int]]:
        """The balls of a run in order, the threat's own last: the radius as a multiple of eps, and the number of steps."""
        return [(1, steps)]

    @staticmethod
    @abstractmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """The steps before which :meth:`adapt` is called, each with the number of steps since the last checkpoint."""

    @abstractmethod
    def adapt(self, needed: float) -> None:
        """Adapts the step size at a checkpoint; ``needed`` of the steps since the last one should have increased the loss."""

    @abstractmethod
    def move(self) -> None:
        """Takes a step."""

    def record(self, loss: Tensor, gradient: Tensor) -> None:
        """Records the loss ``(n,)`` and its gradient at the iterates."""
        targeted = self.feasible.threat.targeted
        self.value, self.gradient = (-loss, -gradient) if targeted else (loss, gradient)
        self.update_top(self.value > self.top_value)

    def update_top(self, higher: Tensor) -> None:
        """Makes the iterates the top points where ``higher`` ``(n,)`` is true."""
        pixels = per_image(higher, self.iterates)
        self.top = torch.where(pixels, self.iterates, self.top)
        self.top_gradient = torch.where(pixels, self.gradient, self.top_gradient)
        self.top_value = torch.where(higher, self.value, self.top_value)

    def return_to_top(self, where: Tensor) -> None:
        """Moves the iterates to the top points where ``where`` ``(n,)`` is true."""
        pixels = per_image(where, self.iterates)
        self.iterates = torch.where(pixels, self.top, self.iterates)
        self.gradient = torch.where(pixels, self.top_gradient, self.gradient)
        self.value = torch.where(where, self.top_value, self.value)

    def _after_step(self, direction: Tensor) -> Tensor:
        """The feasible points after a step in a direction ``(n, C, H, W)``."""
        size = per_image(self.step_size, direction)
        return self.feasible.project(torch.addcmul(self.iterates, direction, size))

    def select(self, rows: Tensor) -> Self:
        """The state of the rows ``rows`` alone."""
        chosen = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(chosen, name, value[rows])
        chosen.feasible = self.feasible.select(rows)
        return chosen


class _DenseRun(_Run):
    """The rules for linf and l2: Algorithm 1 of Croce and Hein (ICML 2020).

    Attributes:
        previous: ``(n, C, H, W)``, the iterates before the last step, for the momentum; ``None`` before the first step.
        increases: ``(n,)``, the number of steps since the last checkpoint that have increased the loss.
        checkpoint_value: ``(n,)``, the highest loss at the last checkpoint.
        halved: ``(n,)`` bool, whether the step size was halved there.
    """

    def __init__(self, start: Tensor, labels: Tensor, feasible: FeasibleSet) -> None:
        super().__init__(start, labels, feasible, step_size=2)
        self.previous: Tensor | None = None
        self.increases = torch.zeros_like(self.step_size)
        self.checkpoint_value = self.top_value
        self.halved = torch.zeros_like(self.step_size, dtype=torch.bool)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        # The paper's checkpoints are shares of the steps: 0.22, and then intervals that shrink by 0.03 down to 0.06. They
        # are counted in hundredths, which avoids rounding errors.
        marks, length = [0, 22], 22
        while marks[-1] < 100:
            length = max(length - 3, 6)
            marks.append(marks[-1] + length)
        rounded_up = [-(-mark * steps // 100) for mark in marks]
        return {end: end - start for start, end in pairwise(rounded_up)}

    def record(self, loss: Tensor, gradient: Tensor) -> None:
        previous = self.value
        super().record(loss, gradient)
        self.increases += self.value > previous

    def adapt(self, needed: float) -> None:
        stuck = ~self.halved & (self.top_value <= self.checkpoint_value)
        self.halved = (self.increases < needed) | stuck
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.return_to_top(self.halved)
        self.checkpoint_value = self.top_value
        self.increases = torch.zeros_like(self.increases)

    def move(self) -> None:
        direction = steepest_ascent(self.gradient, self.feasible.threat.norm)
        after = self._after_step(direction)
        if self.previous is not None:
            # The iterate plus 3/4 of the step, and 1/4 of the last move.
            moved = self.iterates.lerp(after, 0.75).add_(self.iterates - self.previous, alpha=0.25)
            after = self.feasible.project(moved)
        self.previous, self.iterates = self.iterates, after


class _SparseRun(_Run):
    """The rules for l1: Croce and Hein (ICML 2021, section 3).

    Attributes:
        largest_step: ``(n,)``, the radius; the upper bound of the step size.
        changed: ``(n,)``, the number of changed entries of the top point at the last checkpoint.
        moved: ``(n,)`` int64, the number of entries that a step moves.
    """

    def __init__(self, start: Tensor, labels: Tensor, feasible: FeasibleSet) -> None:
        super().__init__(start, labels, feasible, step_size=1)
        self.largest_step = self.step_size
        self.changed = self.count_changed(start)
        self.moved = self._moved(at_most=start[0].numel() / 5)

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
        # While the top point becomes sparser, the run restarts from it with the largest step size.
        smaller = torch.maximum(self.step_size / 1.5, self.largest_step / 10)
        self.step_size = torch.where(sparser, self.largest_step, smaller)
        self.return_to_top(sparser)
        self.changed = changed
        self.moved = self._moved(at_most=self.top[0].numel())

    def _moved(self, *, at_most: float) -> Tensor:
        return (self.changed / 1.5).clamp_max_(at_most).ceil_().clamp_min_(1).long()

    def count_changed(self, perturbed: Tensor) -> Tensor:
        """``(n,)``: the number of entries, pixels times channels, that differ from the images."""
        return (perturbed != self.feasible.images).flatten(1).sum(1).to(perturbed.dtype)

    def move(self) -> None:
        self.iterates = self._after_step(sparse_ascent(self.gradient, self.iterates, self.moved))

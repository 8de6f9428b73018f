"""The L2 attack of Carlini and Wagner."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.linearization import nearest_plane, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["CW"]

_PATIENCE, _CUT, _LAST_RATE = 10, 0.3, 0.05
_CORRECTIONS = 2


class CW(MinimalNormAttack):
    """Carlini and Wagner's L2 attack: the smallest successful perturbation, by binary search over the constant.

    Minimizes ``|d|_2^2 + c max(margin(f(x + d)) + confidence, 0)`` with Adam (section V.A, with the loss f_6 of section
    IV.A). A binary search chooses the constant c for each image (section V.A, "finding the best constant"). The result is
    the smallest d that succeeded at any step of any search.

    The attack differs from the paper in four ways:

    - Each step is projected onto the box ("projected gradient descent", section V.B). The paper's change of variables to
      tanh has a vanishing derivative at pixels of exactly 0 and 1, and half of the pixels of a Fashion-MNIST image never
      change.
    - Each constant starts from the best perturbation so far. The learning rate follows a half cosine to 0. For a
      deterministic model it is also cut when ten steps improve the objective by less than 1 %, and an image stops at a
      twentieth of its first rate.
    - The first constant and the learning rates are in units of the image's own margin and gradient, so that the scale of
      the logits does not matter. Each image has its own Adam state and early stopping, so that its batch mates do not
      affect it.
    - Two final steps go from the image to the linearization of the decision boundary at the perturbed image. The result
      is then shortened along the line to the image, or for a randomized model lengthened until it fools fresh draws.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(200, ge=1, description="steps of Adam for each constant")
    binary_search_steps: int = Field(5, ge=1, description="number of constants tried")
    initial_const: float | None = Field(
        None,
        gt=0,
        description="first constant c; by default twice the constant that suffices for the linearized margin",
    )
    confidence: float = Field(0.0, ge=0, description="margin, in logits, of the misclassification")
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of Adam at the first step of each constant; by default four times (twice for several draws) the "
        "root mean square of the smallest perturbation so far, at first that of the linearized margin",
    )
    abort_early: bool = Field(
        True,
        description="stop early on an image whose objective stops improving, or that a constant improves by less than 1 %",
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, confidence=self.confidence, targeted=threat.targeted)
        logits, gradient = source.gradient(images, labels, goal.hinge)
        hinge = goal.hinge(logits, labels.expand(len(logits), -1)).mean(0)
        slope = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        # The linearization is not trusted beyond a tenth of the diagonal of the box.
        diagonal = math.sqrt(images[0].numel())
        length = (hinge / slope).clamp_max(0.1 * diagonal)
        const = 4 * length / slope if self.initial_const is None else torch.full_like(slope, self.initial_const)
        search = _ConstantSearch(const)
        best, best_length = images.clone(), torch.full_like(slope, torch.inf)
        rows = hinge.nonzero().squeeze(1)
        for _ in range(self.binary_search_steps):
            if not len(rows):
                break
            usual = (4 if len(logits) == 1 else 2) * length[rows] / diagonal
            rates = usual if self.lr is None else torch.full_like(usual, self.lr)
            start, const = best[rows], search.const[rows]
            candidates, candidate_length = self._minimize(
                source, rows, start, images[rows], labels[rows], goal, const, rates
            )
            before = best_length[rows]
            shorter = candidate_length < before
            best[rows] = torch.where(per_image(shorter, images), candidates, start)
            best_length[rows] = torch.where(shorter, candidate_length, before)
            search.narrow(rows, candidate_length.isfinite())
            shortest = best_length[rows]
            length[rows] = torch.where(shortest.isfinite(), shortest, 2 * length[rows]).clamp_max(0.1 * diagonal)
            if self.abort_early:
                rows = rows[~(shortest > 0.99 * before)]
        smallest = BestPerturbation(source, images, labels, "l2", goal)
        smallest.start_from(best, best_length.isfinite())
        if source.exhaustive and bool(smallest.succeeded().any()):
            # The shortest step from the image to the boundary, linearized at the perturbed image.
            for _ in range(_CORRECTIONS):
                points = smallest.images
                _, plane = nearest_plane(source, points, labels, goal, classes=1, norm="l2")
                # A little beyond the boundary, so that rounding does not undo the success.
                ends = images + (1 + 1e-4) * step_to_plane(images, plane.slope, plane.value_at(images, points), "l2")
                smallest.offer(ends.clamp_(0, 1), source.logits(ends))
        smallest.shorten()
        return smallest.images

    def _minimize(
        self,
        source: GradientSource,
        indices: Tensor,
        start: Tensor,
        images: Tensor,
        labels: Tensor,
        goal: Goal,
        const: Tensor,
        rates: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Runs Adam at a fixed constant for each image.

        Args:
            source: Gives logits and gradients.
            indices: ``(N,)``, the indices of the images in the batch of the source.
            start: ``(N, C, H, W)``, the first iterates.
            images: ``(N, C, H, W)``, the clean images.
            labels: ``(N,)``.
            goal: What counts as success.
            const: ``(N,)``, the constants.
            rates: ``(N,)``, the learning rates of the first step.

        Returns:
            The smallest successful perturbed images ``(N, C, H, W)`` and their L2 distances ``(N,)``, which are infinite
            where no step succeeded.
        """
        smallest, smallest_length = images.clone(), torch.full_like(const, torch.inf)
        rows = torch.arange(len(images), device=images.device)
        streak = Streak(source, images)
        iterates, first, second = start, torch.zeros_like(images), torch.zeros_like(images)
        lowest = torch.full_like(const, torch.inf)
        earlier, least_rates = lowest, rates * _LAST_RATE
        for step in range(1, self.steps + 1):
            logits, slope = source.gradient(iterates, labels, goal.hinge, rows=indices[rows])
            difference = iterates - images
            length = difference.flatten(1).norm(dim=1)
            shorter = streak.offer(goal.reached(logits, labels)) & (length < smallest_length[rows])
            smallest[rows] = torch.where(per_image(shorter, images), iterates, smallest[rows])
            smallest_length[rows] = torch.where(shorter, length, smallest_length[rows])
            hinge = goal.hinge(logits, labels.expand(len(logits), -1)).mean(0)
            lowest = lowest.minimum(length.square() + const * hinge)
            # With several draws the objective can stall at a kink and improve later.
            if self.abort_early and source.exhaustive and len(logits) == 1 and step % _PATIENCE == 0:
                rates = torch.where(lowest > 0.99 * earlier, rates * _CUT, rates)
                earlier = lowest
                active = (rates >= least_rates).nonzero().squeeze(1)
                if not len(active):
                    break
                if len(active) < len(rows):
                    rows, iterates, images, labels = rows[active], iterates[active], images[active], labels[active]
                    first, second = first[active], second[active]
                    difference, slope = difference[active], slope[active]
                    const, rates, least_rates = const[active], rates[active], least_rates[active]
                    lowest, earlier, streak = lowest[active], earlier[active], Streak(source, images)
            gradient = 2 * difference + per_image(const, images) * slope
            falling = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.steps)
            sizes = per_image(falling * rates / (1 - 0.9**step), images)
            iterates = (iterates - _adam_step(gradient, first, second, sizes, step)).clamp_(0, 1)
        return smallest, smallest_length


def _adam_step(gradient: Tensor, first: Tensor, second: Tensor, sizes: Tensor, step: int) -> Tensor:
    """The step of Adam; it updates the moments in place.

    Args:
        gradient: ``(N, C, H, W)``.
        first: ``(N, C, H, W)``, the first moment.
        second: ``(N, C, H, W)``, the second moment.
        sizes: ``(N, 1, 1, 1)``, the learning rates with the bias correction of the first moment.
        step: The number of the step, from 1.
    """
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
    return sizes * first / scale


class _ConstantSearch:
    """The binary search over the constant of each image (section V.A): times ten until a success, then bisection.

    Args:
        first: ``(N,)``, the first constants.
    """

    def __init__(self, first: Tensor) -> None:
        self.const = first
        self._lower = torch.zeros_like(first)
        self._upper = torch.full_like(first, torch.inf)

    def narrow(self, rows: Tensor, succeeded: Tensor) -> None:
        """Sets the next constants of the images ``rows`` ``(M,)``, given whether the last ones ``succeeded`` ``(M,)``."""
        const = self.const[rows]
        self._upper[rows] = torch.where(succeeded, const.minimum(self._upper[rows]), self._upper[rows])
        self._lower[rows] = torch.where(succeeded, self._lower[rows], const.maximum(self._lower[rows]))
        middle = (self._lower[rows] + self._upper[rows]) / 2
        self.const[rows] = torch.where(middle.isinf(), const * 10, middle)

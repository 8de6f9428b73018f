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
    """Carlini and Wagner's L2 attack: the smallest perturbation that succeeds, by a search over the penalty's constant.

    Minimises ``|d|_2^2 + c max(margin(f(x + d)) + confidence, 0)`` by Adam (section V.A, with f_6 of section IV.A), for
    constants c that a binary search chooses for each image (section V.A, "finding the best constant"), and returns the
    smallest d that succeeded at any step of any search.

    The box is held by projecting every step onto it ("projected gradient descent" of section V.B) and not by the change
    of variables to tanh, whose derivative vanishes at pixels of exactly 0 and 1: half of a Fashion-MNIST image could
    not be moved. The steps of each constant begin at the best perturbation so far, and their learning rate falls to 0
    along half a period of the cosine, and for a deterministic model further where ten steps do not improve the
    objective by 1 %; an image leaves once it is a twentieth of what it was. The first constant and the learning rates
    are in units of the image's own margin and slope, so that the range of the logits does not matter. Every image has
    its own, as well as its own Adam state and its own early stop, so that it is not touched by its batch mates. What is
    found is corrected by two steps from the image to the plane that touches the boundary there, and shortened along the
    line to its image; of a randomized model, it is lengthened until it fools fresh draws.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(200, ge=1, description="steps of Adam for each constant")
    binary_search_steps: int = Field(5, ge=1, description="constants that are tried")
    initial_const: float | None = Field(
        None,
        gt=0,
        description="the first constant c; where not given, twice what a linear model of the image's margin and slope needs",
    )
    confidence: float = Field(0.0, ge=0, description="the margin, in logits, by which an image must be misclassified")
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of Adam at the first step of each constant; where not given, four times the root mean square "
        "over the pixels of the smallest perturbation known, at first a linear model's; twice for several draws",
    )
    abort_early: bool = Field(
        True,
        description="let an image go when its objective stands still, and when a constant has not brought it 1 % nearer",
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, confidence=self.confidence, targeted=threat.targeted)
        logits, gradient = source.gradient(images, labels, goal.hinge)
        hinge = goal.hinge(logits, labels.expand(len(logits), -1)).mean(0)
        slope = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        # A linear model that calls for more than a tenth of the box's diagonal is not believed.
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
            found, found_length = self._minimise(source, rows, start, images[rows], labels[rows], goal, const, rates)
            before = best_length[rows]
            shorter = found_length < before
            best[rows] = torch.where(per_image(shorter, images), found, start)
            best_length[rows] = torch.where(shorter, found_length, before)
            search.narrow(rows, found_length.isfinite())
            known = best_length[rows]
            length[rows] = torch.where(known.isfinite(), known, 2 * length[rows]).clamp_max(0.1 * diagonal)
            if self.abort_early:
                rows = rows[~(known > 0.99 * before)]
        smallest = BestPerturbation(source, images, labels, "l2", goal)
        smallest.start_from(best, best_length.isfinite())
        if source.exhaustive and bool(smallest.succeeded().any()):
            # The shortest way from the image to the boundary, as linear as it is around what was found.
            for _ in range(_CORRECTIONS):
                points = smallest.images
                _, plane = nearest_plane(source, points, labels, goal, classes=1, norm="l2")
                # A little further, so that rounding does not leave it before the boundary.
                ends = images + (1 + 1e-4) * step_to_plane(images, plane.slope, plane.value_at(images, points), "l2")
                smallest.offer(ends.clamp_(0, 1), source.logits(ends))
        smallest.shorten()
        return smallest.images

    def _minimise(
        self,
        source: GradientSource,
        places: Tensor,
        start: Tensor,
        images: Tensor,
        labels: Tensor,
        goal: Goal,
        const: Tensor,
        rates: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Runs Adam from ``start`` at fixed constants ``(N,)``, with these learning rates ``(N,)`` at the first step.

        The images are those at the ``places`` ``(N,)`` of the batch.

        Returns:
            The smallest successful perturbed images ``(N, C, H, W)`` and their L2 distances ``(N,)``, infinite where
            none succeeded.
        """
        found, found_length = images.clone(), torch.full_like(const, torch.inf)
        rows = torch.arange(len(images), device=images.device)
        streak = Streak(source, images)
        iterates, first, second = start, torch.zeros_like(images), torch.zeros_like(images)
        lowest = torch.full_like(const, torch.inf)
        earlier, least_rates = lowest, rates * _LAST_RATE
        for step in range(1, self.steps + 1):
            logits, slope = source.gradient(iterates, labels, goal.hinge, rows=places[rows])
            difference = iterates - images
            length = difference.flatten(1).norm(dim=1)
            shorter = streak.offer(goal.reached(logits, labels)) & (length < found_length[rows])
            found[rows] = torch.where(per_image(shorter, images), iterates, found[rows])
            found_length[rows] = torch.where(shorter, length, found_length[rows])
            hinge = goal.hinge(logits, labels.expand(len(logits), -1)).mean(0)
            lowest = lowest.minimum(length.square() + const * hinge)
            # The objective of several draws has kinks, at which it stands still for a while.
            if self.abort_early and source.exhaustive and len(logits) == 1 and step % _PATIENCE == 0:
                rates = torch.where(lowest > 0.99 * earlier, rates * _CUT, rates)
                earlier = lowest
                staying = (rates >= least_rates).nonzero().squeeze(1)
                if not len(staying):
                    break
                if len(staying) < len(rows):
                    rows, iterates, images, labels = rows[staying], iterates[staying], images[staying], labels[staying]
                    first, second, difference, slope = (
                        first[staying],
                        second[staying],
                        difference[staying],
                        slope[staying],
                    )
                    const, rates, least_rates = const[staying], rates[staying], least_rates[staying]
                    lowest, earlier, streak = lowest[staying], earlier[staying], Streak(source, images)
            gradient = 2 * difference + per_image(const, images) * slope
            first = first.lerp_(gradient, 0.1)
            second = second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            falling = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.steps)
            sizes = per_image(falling * rates / (1 - 0.9**step), images)
            iterates = (iterates - sizes * first / scale).clamp_(0, 1)
        return found, found_length


class _ConstantSearch:
    """The binary search for the constant, for each image by itself: tenfold until it succeeds, then halving.

    Args:
        first: ``(N,)``, the constants to begin with.
    """

    def __init__(self, first: Tensor) -> None:
        self.const = first
        self._lower = torch.zeros_like(first)
        self._upper = torch.full_like(first, torch.inf)

    def narrow(self, rows: Tensor, succeeded: Tensor) -> None:
        """Takes whether the constants of the images ``rows`` succeeded, and sets their next ones."""
        const = self.const[rows]
        self._upper[rows] = torch.where(succeeded, const.minimum(self._upper[rows]), self._upper[rows])
        self._lower[rows] = torch.where(succeeded, self._lower[rows], const.maximum(self._lower[rows]))
        middle = (self._lower[rows] + self._upper[rows]) / 2
        self.const[rows] = torch.where(middle.isinf(), const * 10, middle)

"""The L2 attack of Carlini and Wagner."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.graphed_steps import GraphedSteps
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.adam import bias_corrections, update_moments
from robustbench_cli.attacks.base.search.linearization import nearest_plane, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, norms, slopes
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["CW"]

_PATIENCE, _CUT, _LAST_RATE = 7, 0.5, 0.05
"""The steps between two checks of the objective, the factor of a stalled rate, and the last rate relative to the first."""

_SELDOM = 3
"""The checks between which images leave on a GPU, which has to wait for their count."""

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
      deterministic model it is also halved when seven steps improve the objective by less than 1 %, and an image stops at
      a twentieth of its first rate.
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
    targeted_restarts: int = targeted_restarts_field()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, confidence=self.confidence, targeted=threat.targeted)
        shortfall, gradient = goal.gradient(source, images, labels, hinge=True)
        hinge, slope = shortfall.hinge(), slopes(gradient, "l2")
        # The linearization is not trusted beyond a tenth of the diagonal of the box.
        diagonal = math.sqrt(images[0].numel())
        length = (hinge / slope).clamp_max(0.1 * diagonal)
        const = 4 * length / slope if self.initial_const is None else torch.full_like(slope, self.initial_const)
        search, minimize = _ConstantSearch(const), _Minimizer(source, goal, self, images)
        best, best_length = images.clone(), torch.full_like(slope, torch.inf)
        rows = hinge.nonzero().squeeze(1)
        for _ in range(self.binary_search_steps):
            if not len(rows):
                break
            usual = (4 if source.draws == 1 else 2) * length[rows] / diagonal
            rates = usual if self.lr is None else torch.full_like(usual, self.lr)
            start, const = best[rows], search.const[rows]
            candidates, candidate_length = minimize(rows, start, images[rows], labels[rows], const, rates)
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
                step = step_to_plane(images, plane.slope, plane.value_at(images, points), "l2")
                smallest.evaluate(torch.add(images, step, alpha=1 + 1e-4).clamp_(0, 1))
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, smallest, random)
        smallest.shorten()
        return smallest.images


class _Minimizer:
    """Runs Adam at a fixed constant for each image.

    Args:
        source: Gives logits and gradients.
        goal: What counts as success.
        attack: The number of steps, and whether images stop early.
        images: ``(N, C, H, W)``, of the type and on the device of all later ones.
    """

    _streak: Streak

    def __init__(self, source: GradientSource, goal: Goal, attack: CW, images: Tensor) -> None:
        self._source, self._goal = source, goal
        # With several draws the objective can stall at a kink and improve later.
        self._stops_early = attack.abort_early and source.exhaustive and source.draws == 1
        self._step = GraphedSteps(source, lambda state, numbers: self._descend(_Descent(**state), numbers))
        numbers = [_numbers_of_step(step, attack.steps) for step in range(1, attack.steps)]
        self._numbers = torch.tensor(numbers, dtype=images.dtype).view(-1, 2).to(images.device)

    def __call__(
        self, indices: Tensor, start: Tensor, images: Tensor, labels: Tensor, const: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The nearest successful iterates.

        Args:
            indices: ``(N,)``, the indices of the images in the batch of the source.
            start: ``(N, C, H, W)``, the first iterates.
            images: ``(N, C, H, W)``, the clean images.
            labels: ``(N,)``.
            const: ``(N,)``, the constants.
            rates: ``(N,)``, the learning rates of the first step.

        Returns:
            The smallest successful perturbed images ``(N, C, H, W)`` and their L2 distances ``(N,)``, which are infinite
            where no step succeeded.
        """
        smallest, smallest_length = images.clone(), torch.full_like(const, torch.inf)
        self._streak = Streak(self._source, images)
        state = _Descent.begin(start, images, labels, indices, const, rates)
        state = replace(state, **self._query(state))
        for step, numbers in enumerate(self._numbers, start=1):
            if self._stops_early and step % _PATIENCE == 0:
                state = state.cut_stalled_rates()
                if step % (_PATIENCE * _SELDOM) == 0 or not images.is_cuda:
                    active = state.rates.nonzero().squeeze(1)
                    if len(active) < len(state.rows):
                        smallest[state.rows], smallest_length[state.rows] = state.nearest, state.nearest_length
                        state = state.select(active)
                    if not len(active):
                        break
            state = _Descent(**self._step(vars(state), numbers))
        smallest[state.rows], smallest_length[state.rows] = state.nearest, state.nearest_length
        return smallest, smallest_length

    def _descend(self, state: _Descent, numbers: Tensor) -> dict[str, Tensor]:
        """What changes in a step of Adam with the numbers of :func:`_numbers_of_step` ``(2,)``, clamped to the box."""
        pace, smallest_root = numbers
        root = update_moments(state.gradient, state.first, state.second, smallest_root)
        rated = state.first * per_image(pace * state.rates, root)
        iterates = torch.addcdiv(state.iterates, rated, root).clamp_(0, 1)
        return {"iterates": iterates, **self._query(replace(state, iterates=iterates))}

    def _query(self, state: _Descent) -> dict[str, Tensor]:
        """What a query at the iterates changes. The scale of the gradients does not matter to Adam."""
        shortfall, slope = self._goal.gradient(
            self._source, state.iterates, state.labels, hinge=True, rows=state.indices
        )
        difference = state.iterates - state.images
        length = norms(difference, "l2")
        shorter = self._streak.offer(shortfall.largest() < 0) & (length < state.nearest_length)
        return {
            "gradient": torch.addcmul(difference, slope, per_image(state.const, difference), value=0.5),
            "nearest": torch.where(per_image(shorter, difference), state.iterates, state.nearest),
            "nearest_length": torch.where(shorter, length, state.nearest_length),
            "lowest": state.lowest.minimum(torch.addcmul(state.const * shortfall.hinge(), length, length)),
        }


def _numbers_of_step(step: int, steps: int) -> tuple[float, float]:
    """The factor of the rates at a step, negative for a descent and falling to 0 by half a cosine, and Adam's smallest root."""
    factor, smallest_root = bias_corrections(step)
    return -factor * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps)), smallest_root


@dataclass(frozen=True)
class _Descent:
    """The images that go on at their constants: all tensors have one row for each.

    Attributes:
        rows: Their positions in the batch at the start.
        indices: Their indices in the batch of the source.
        images: The clean images.
        labels: The labels.
        const: The constants.
        rates: The learning rates before their decay; 0 for an image that has stopped, which stays where it is.
        least_rates: The rates below which an image stops.
        iterates: The perturbed images.
        gradient: The gradients of their objectives, up to a factor.
        first: Adam's first moment.
        second: Adam's second moment.
        lowest: The lowest objective so far.
        earlier: The lowest objective at the last check.
        nearest: The nearest successful iterates.
        nearest_length: Their L2 distances; infinite without a success.
    """

    rows: Tensor
    indices: Tensor
    images: Tensor
    labels: Tensor
    const: Tensor
    rates: Tensor
    least_rates: Tensor
    iterates: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    lowest: Tensor
    earlier: Tensor
    nearest: Tensor
    nearest_length: Tensor

    @classmethod
    def begin(
        cls, start: Tensor, images: Tensor, labels: Tensor, indices: Tensor, const: Tensor, rates: Tensor
    ) -> _Descent:
        """The state at the first iterates ``start``."""
        return cls(
            rows=torch.arange(len(images), device=images.device),
            indices=indices,
            images=images,
            labels=labels,
            const=const,
            rates=rates,
            least_rates=rates * _LAST_RATE,
            iterates=start,
            gradient=torch.zeros_like(images),
            first=torch.zeros_like(images),
            second=torch.zeros_like(images),
            lowest=torch.full_like(const, torch.inf),
            earlier=torch.full_like(const, torch.inf),
            nearest=images,
            nearest_length=torch.full_like(const, torch.inf),
        )

    def select(self, active: Tensor) -> _Descent:
        """The state of the rows ``active``."""
        return _Descent(**{name: values[active] for name, values in vars(self).items()})

    def cut_stalled_rates(self) -> _Descent:
        """The state in which the rates are cut for images whose objective improved by less than 1 % since the last call."""
        rates = torch.where(self.lowest > 0.99 * self.earlier, self.rates * _CUT, self.rates)
        return replace(self, rates=rates.masked_fill(rates < self.least_rates, 0), earlier=self.lowest)


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

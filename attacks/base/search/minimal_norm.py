"""What minimal-norm attacks share: the goal, the smallest perturbation that reaches it, and a final shortening.

A minimal-norm attack moves around the decision boundary and offers each iterate to :class:`BestPerturbation`, which keeps
the smallest perturbation that reaches the :class:`Goal`. At the end, :meth:`BestPerturbation.shorten` moves it along the
line to the image, closer to the boundary, by forward passes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.losses import closed_form, margin, mean_over_draws, rounding, slope_and_value
from robustbench_cli.attacks.base.models.logit_noise import measured_noise
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import per_image

__all__ = [
    "BestPerturbation",
    "Goal",
    "Shortfall",
    "dual_norms",
    "linear_distance",
    "norms",
    "slopes",
    "without_blocked_pixels",
]

_LEAST_SLOPE = 1e-34
"""So that float32 holds any length in the box, divided by a slope."""

_DUALS: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}


class Shortfall(NamedTuple):
    """How far the logits of D draws are from a goal, in logits.

    Attributes:
        values: ``(D, N)``, negative where a draw reaches the goal.
        tolerance: ``(D, N)``, by how much it must reach it; see :func:`~robustbench_cli.attacks.base.losses.rounding`.
        logits: ``(D, N, K)``.
    """

    values: Tensor
    tolerance: Tensor
    logits: Tensor

    def largest(self) -> Tensor:
        """``(N,)``: the largest over the draws, plus the tolerance; negative where every draw reaches the goal."""
        values = self.values + self.tolerance
        return values[0] if len(values) == 1 else values.amax(0)

    def mean(self) -> Tensor:
        """``(N,)``: the mean over the draws, plus twice the tolerance; at least 0 where a draw does not reach the goal."""
        values = self.values.add(self.tolerance, alpha=2)
        return values[0] if len(values) == 1 else values.mean(0).clamp_min_(0)

    def spread(self, rows: Tensor, count: int) -> Shortfall:
        """The same for the images ``rows`` ``(N,)`` of a batch of ``count``; the others do not reach the goal."""

        def of_batch(part: Tensor) -> Tensor:
            whole = part.new_full((len(part), count, *part.shape[2:]), torch.inf)
            return whole.index_copy_(1, rows, part)

        return Shortfall(*map(of_batch, self))

    def hinge(self) -> Tensor:
        """``(N,)``: the mean over the draws of :meth:`Goal.hinge`."""
        return mean_over_draws(self.values.add(self.tolerance, alpha=2).clamp_min_(0))


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The condition that the logits must fulfill.

    Attributes:
        targeted: Whether the labels are the classes to reach.
        confidence: The margin, in logits, by which the goal must be reached.
        noise: See :func:`~robustbench_cli.attacks.base.losses.rounding`.
    """

    targeted: bool
    confidence: float = 0.0
    noise: float | None = None

    @classmethod
    def of(cls, source: GradientSource, *, targeted: bool, confidence: float = 0.0) -> Goal:
        """The goal for the logits of a source, which they must reach by more than their noise.

        Args:
            source: The source of the logits.
            targeted: Whether the labels are the classes to reach.
            confidence: See :class:`Goal`.
        """
        return cls(targeted=targeted, confidence=confidence, noise=measured_noise(source))

    def rounding(self, logits: Tensor) -> Tensor:
        """The tolerance ``(...)`` of logits ``(..., K)``; see :func:`~robustbench_cli.attacks.base.losses.rounding`."""
        return rounding(logits, self.noise)

    def slope_of_shortfall(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """The closed form of :meth:`shortfall`; see :func:`~robustbench_cli.attacks.base.losses.closed_form`."""
        slopes, margins = slope_and_value(margin, logits, labels)
        return -slopes if self.targeted else slopes, lambda: self.of_margins(margins())

    @closed_form(slope_of_shortfall)
    def shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The distance from the goal in logits, negative where the goal is reached.

        Args:
            logits: ``(..., K)``.
            labels: ``(...)``.

        Returns:
            ``(...)``.
        """
        return self.of_margins(margin(logits, labels))

    def of_margins(self, margins: Tensor) -> Tensor:
        """The shortfall ``(...)`` for margins ``(...)`` of the labels."""
        shortfall = -margins if self.targeted else margins
        return shortfall + self.confidence if self.confidence else shortfall

    def hinge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The shortfall cut off at 0, as a loss.

        It vanishes only beyond twice the tolerance, so that a minimum of the loss fulfills :meth:`reached`.

        Args:
            logits: ``(M, K)``.
            labels: ``(M,)``.

        Returns:
            ``(M,)``.
        """
        return self.shortfall(logits, labels).add(self.rounding(logits.detach()), alpha=2).clamp_min(0)

    def measure(self, logits: Tensor, labels: Tensor) -> Shortfall:
        """How far logits ``(D, N, K)`` for labels ``(N,)`` are from the goal."""
        return Shortfall(self.shortfall(logits, labels.expand(len(logits), -1)), self.rounding(logits), logits)

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether every draw reaches the goal by more than the tolerance.

        Args:
            logits: ``(D, N, K)``.
            labels: ``(N,)``.

        Returns:
            ``(N,)`` bool.
        """
        return self.measure(logits, labels).largest() < 0

    def gradient(
        self,
        source: GradientSource,
        points: Tensor,
        labels: Tensor,
        *,
        hinge: bool = False,
        rows: Tensor | None = None,
        copies: int | Tensor = 1,
    ) -> tuple[Shortfall, Tensor]:
        """How far points are from the goal, and the direction away from it.

        Args:
            source: Computes the gradient.
            points: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
            hinge: Whether draws that reach the goal have no gradient; see :meth:`hinge`.
            rows: See :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.
            copies: Likewise.

        Returns:
            The shortfall, and the gradient ``(N, C, H, W)`` of its mean over the draws.
        """
        loss = _Hinge(self, bf16=source.precision == "bf16") if hinge else self.shortfall
        logits, values, gradient = source.values_and_gradient(points, labels, loss, rows=rows, copies=copies)
        missing, tolerance = values.unbind(-1) if hinge else (values, self.rounding(logits))
        return Shortfall(missing, tolerance, logits), gradient


@dataclass(frozen=True)
class _Hinge:
    """:meth:`Goal.hinge` as a loss whose closed form also gives the parts of a :class:`Shortfall`, which it needs itself.

    The tolerance is that of the logits' own type, which a source that computes in bfloat16 converts.
    """

    goal: Goal
    bf16: bool

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.goal.hinge(logits, labels)

    def closed_form(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """The slopes ``(M, K)`` for logits ``(M, K)``, and a function to the shortfall and the tolerance ``(M, 2)``."""
        slopes, shortfall = self.goal.slope_of_shortfall(logits, labels)
        tolerance = self.goal.rounding(logits.bfloat16() if self.bf16 else logits)
        parts = torch.stack([shortfall(), tolerance], 1)
        active = parts[:, :1].add(parts[:, 1:], alpha=2) > 0
        return slopes * active, lambda: parts


class BestPerturbation:
    """The smallest successful perturbation of each image so far.

    An attack's loop offers each iterate together with its logits. If the draws are exhaustive, an iterate is a success if
    it reaches the goal. If they are a sample, the goal must be reached in several successive offers; see
    :class:`~robustbench_cli.attacks.base.iterates.Streak`.

    Args:
        source: The source of the logits.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        norm: The norm that is minimized.
        goal: The condition for a success.
        rows: See :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.
        copies: Likewise.

    Attributes:
        images: ``(N, C, H, W)``, the perturbed images; the image itself without a success.
        distance: ``(N,)`` of the images' type; infinite without a success.
        norm: The norm that is minimized.
        goal: The condition for a success.
    """

    halvings: ClassVar[int] = 10

    def __init__(
        self,
        source: GradientSource,
        images: Tensor,
        labels: Tensor,
        norm: Norm,
        goal: Goal,
        *,
        rows: Tensor | None = None,
        copies: int | Tensor = 1,
    ) -> None:
        self._source = source
        self._rows, self._copies = rows, copies
        self._originals = images
        self._labels = labels
        self.norm = norm
        self.goal = goal
        self._streak = Streak(source, images)
        self._one = images.new_ones(())
        self._calls = 0
        self.images = images
        self.distance = images.new_full((len(images),), torch.inf)

    def offer(self, iterates: Tensor, shortfall: Shortfall, lengths: Tensor | None = None) -> Tensor:
        """Keeps the iterates that are successes and smaller than the smallest so far.

        Args:
            iterates: ``(N, C, H, W)``.
            shortfall: How far the iterates are from the goal.
            lengths: ``(N,)``, the norms of their perturbations, if the attack knows them.

        Returns:
            ``(N,)``: -1 where the iterate is a success, so that the next one should be smaller; 1 where it did not fool every
            draw, so that the next one should be larger; 0 where it did, but has to do so again.
        """
        largest = shortfall.largest()
        fooled = largest < 0
        success = self._streak.offer(fooled)
        lengths = norms(iterates - self._originals, self.norm) if lengths is None else lengths
        self._keep_smaller(iterates, success, lengths)
        if success is fooled:
            return torch.copysign(self._one, largest)
        return 1 - fooled.to(lengths.dtype) - success.to(lengths.dtype)

    def evaluate(self, iterates: Tensor) -> None:
        """Offers iterates ``(N, C, H, W)`` at which the attack takes no gradient."""
        self.offer(iterates, self.goal.measure(self._logits(iterates), self._labels))

    def _logits(self, images: Tensor) -> Tensor:
        return self._source.logits(images, rows=self._rows, copies=self._copies)

    def shortfall(self, logits: Tensor, tolerance: Tensor) -> Shortfall:
        """How far logits ``(D, N, K)`` of a known tolerance ``(D, N)`` are from the goal."""
        return Shortfall(self.goal.shortfall(logits, self._labels.expand(len(logits), -1)), tolerance, logits)

    def next_radius(self, radius: Tensor, first: Tensor, verdict: Tensor, gamma: float) -> Tensor:
        """Shrinks the radius of each image after a success and widens it otherwise, up to the smallest perturbation.

        Args:
            radius: ``(N,)``, finite.
            first: ``(N,)``, the radius to widen as long as there was no success.
            verdict: ``(N,)``, of :meth:`offer`.
            gamma: The relative change.

        Returns:
            ``(N,)``.
        """
        base = self.base_radius(radius, first, verdict)
        return torch.addcmul(base, base, verdict, value=gamma).minimum(self.distance)

    def base_radius(self, radius: Tensor, first: Tensor, verdict: Tensor) -> Tensor:
        """The radius ``(N,)`` that :meth:`next_radius` shrinks or widens."""
        # Zero times infinity is not infinity: an iterate that has to be evaluated again keeps its radius.
        unreached = (self.distance if self._source.exhaustive else self.distance * verdict) == torch.inf
        return torch.where(unreached, first, radius.minimum(self.distance))

    def _keep_smaller(self, candidates: Tensor, success: Tensor, lengths: Tensor) -> None:
        smaller = success & (lengths < self.distance)
        self.images = torch.where(per_image(smaller, candidates), candidates, self.images)
        self.distance = torch.where(smaller, lengths, self.distance)

    def start_from(self, perturbed: Tensor, success: Tensor) -> None:
        """Adds perturbed images from another search.

        Args:
            perturbed: ``(N, C, H, W)``.
            success: ``(N,)`` bool: which of them are successes.
        """
        self._keep_smaller(perturbed, success, norms(perturbed - self._originals, self.norm))

    def keep_nearest_of(self, copies: BestPerturbation) -> None:
        """Adds the smallest perturbations of other searches, of which each image has the same number of adjacent rows."""
        nearest = copies.distance.view(len(self.distance), -1).min(1, keepdim=True)
        chosen = copies.images.unflatten(0, (len(self.distance), -1)).take_along_dim(
            nearest.indices.view(-1, *[1] * self.images.dim()), 1
        )
        lengths = nearest.values.squeeze(1)
        self._keep_smaller(chosen.squeeze(1), lengths < torch.inf, lengths)

    def succeeded(self) -> Tensor:
        """``(N,)`` bool: the images with a success."""
        return self.distance < torch.inf

    def remaining(self) -> Tensor:
        """``(n,)`` int64: the indices of the images without a success.

        A GPU, which makes the CPU wait for the count, counts only at the calls 1, 2, 4, 8, ...
        """
        self._calls += 1
        if not self.distance.is_cuda or self._calls & (self._calls - 1) == 0:
            self._remaining = (~self.succeeded()).nonzero().squeeze(1)
        return self._remaining

    def shorten(self) -> None:
        """Moves every perturbation along the line to its image, closer to the decision boundary.

        If the draws are exhaustive, a bisection between the image and the perturbed image finds the shortest length that
        still reaches the goal.

        If the draws are a sample, a bisection would follow the luck of single samples, and the current perturbation may
        itself be a lucky one. So the lengths from 1.5 down to 0.5 times the current one are tried in steps of a tenth,
        the longest first. Each length must reach the goal in as many successive fresh samples as a success needs. The
        search for an image ends at the first failure, and the last length before it is taken.

        An l0 perturbation stays as it is, since its length does not depend on the size of the changes.
        """
        if self.norm == "l0" or not bool(self.succeeded().any()):
            return
        if self._source.exhaustive:
            self._bisect()
        else:
            self._shorten_by_samples()

    def _scaled(self, factor: Tensor) -> Tensor:
        """The images with their perturbations scaled by factors ``(N,)``, clamped to the box."""
        return torch.lerp(self._originals, self.images, per_image(factor, self.images)).clamp_(0, 1)

    def _bisect(self) -> None:
        """Bisects the scale: ``high`` reaches the goal, ``low`` does not, except that 0 and 1 are never tested."""
        low, high = torch.zeros_like(self.distance), torch.ones_like(self.distance)
        shortest = self.images
        for _ in range(self.halvings):
            middle = (low + high) / 2
            candidates = self._scaled(middle)
            reached = self.goal.reached(self._logits(candidates), self._labels)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            shortest = torch.where(per_image(reached, candidates), candidates, shortest)
        self.start_from(shortest, self.succeeded())

    def _shorten_by_samples(self) -> None:
        """Tries the scales 1.5, 1.4, ..., 0.5; each image takes the last one before its first failure."""
        succeeded = self.succeeded()
        # An image whose first scale fails gets scale 1.5 all the same: the larger one is more likely to succeed.
        chosen, unfailed = self._scaled(torch.full_like(self.distance, 1.5)), succeeded
        for tenths in range(15, 4, -1):
            candidates = self._scaled(torch.full_like(self.distance, tenths / 10))
            for _ in range(Streak.steps):
                unfailed = unfailed & self.goal.reached(self._logits(candidates), self._labels)
            chosen = torch.where(per_image(unfailed, candidates), candidates, chosen)
        self.images = torch.where(per_image(succeeded, chosen), chosen, self.images)
        lengths = norms(self.images - self._originals, self.norm)
        self.distance = torch.where(succeeded, lengths, self.distance)


def without_blocked_pixels(gradient: Tensor, images: Tensor) -> Tensor:
    """Sets the gradient to 0 at pixels on the edge of the box that a descent step would push out of it.

    In some data sets half of the pixels are exactly 0. A step that moves them is clipped, so a slope that includes them
    promises too large a decrease.

    Args:
        gradient: ``(N, C, H, W)``.
        images: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``(N, C, H, W)``.

    >>> without_blocked_pixels(torch.tensor([[1.0, 1.0, -1.0]]), torch.tensor([[0.0, 0.5, 1.0]]))
    tensor([[0., 1., 0.]])
    """
    # A step of that size ends at the edge of the box, or where it began.
    largest = torch.finfo(gradient.dtype).max
    ends = torch.sub(images, gradient, alpha=largest).clamp_(0, 1)
    return gradient.masked_fill(ends == images, 0)


def norms(differences: Tensor, norm: Norm, *, dims: int = 1) -> Tensor:
    """The norms of perturbations, for comparisons among them; :func:`~.threat.distance` is exact.

    Args:
        differences: ``(..., C, H, W)``.
        norm: ``l0`` counts pixels and not channels.
        dims: The number of dimensions before the channels.

    Returns:
        ``(...)``, of the same type.
    """
    if norm == "l0":
        return differences.any(dim=dims).flatten(dims).sum(-1, dtype=differences.dtype)
    flat = differences.flatten(dims)
    # torch's own maximum norm takes ten times as long on a CPU.
    return (
        flat.abs().amax(-1) if norm == "linf" else torch.linalg.vector_norm(flat, ord=1 if norm == "l1" else 2, dim=-1)
    )


def dual_norms(gradients: Tensor, norm: Norm, *, dims: int = 1) -> Tensor:
    """The slopes of linear functions along their steepest directions of length 1.

    Args:
        gradients: ``(..., C, H, W)``.
        norm: The norm of the steps. In l0, a pixel can change by 1 at most, and the result is an upper bound.
        dims: The number of dimensions before the channels.

    Returns:
        ``(...)`` float64. The squares of float32 numbers below 1e-19 would underflow.

    >>> dual_norms(torch.tensor([[3.0, -4.0]]), "l2")
    tensor([5.], dtype=torch.float64)
    """
    dual = _DUALS[norm]
    if dual == "linf":
        return norms(gradients, dual, dims=dims).double()
    order = 1 if dual == "l1" else 2
    lengths: Tensor = torch.linalg.vector_norm(gradients.flatten(dims), ord=order, dim=-1, dtype=torch.float64)
    return lengths


def slopes(gradients: Tensor, norm: Norm) -> Tensor:
    """:func:`dual_norms` ``(N,)`` in the type of the gradients ``(N, C, H, W)``, as divisors of lengths: never 0."""
    return dual_norms(gradients, norm).clamp(_LEAST_SLOPE, 1 / _LEAST_SLOPE).to(gradients.dtype)


def linear_distance(shortfall: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """The distance to the goal for a linear model: the shortfall divided by the dual norm of its gradient.

    Args:
        shortfall: ``(...)``; a negative one counts as 0.
        gradient: ``(..., C, H, W)``, of the shortfall.
        norm: In l0, the result is a lower bound that may be fractional.

    Returns:
        ``(...)`` float64; infinite where the gradient is 0.

    >>> linear_distance(torch.tensor([10.0]), torch.tensor([[3.0, 4.0]]), "l2")
    tensor([2.], dtype=torch.float64)
    """
    return (shortfall.clamp_min(0) / dual_norms(gradient, norm, dims=shortfall.dim())).nan_to_num_(torch.inf, torch.inf)

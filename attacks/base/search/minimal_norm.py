"""What minimal-norm attacks share: the goal, the smallest perturbation that reaches it, and a final shortening.

A minimal-norm attack moves around the decision boundary and offers each iterate to :class:`BestPerturbation`, which keeps
the smallest perturbation that reaches the :class:`Goal`. At the end, :meth:`BestPerturbation.shorten` moves it along the
line to the image, closer to the boundary, by forward passes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.losses import margin, rounding
from robustbench_cli.attacks.base.models.logit_noise import measured_noise
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance, per_image

__all__ = ["BestPerturbation", "Goal", "linear_distance", "without_blocked_pixels"]

_DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": torch.inf, "l0": torch.inf}


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

    def shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The distance from the goal in logits, negative where the goal is reached.

        Args:
            logits: ``(M, K)``.
            labels: ``(M,)``.

        Returns:
            ``(M,)``.
        """
        margins = margin(logits, labels)
        return (-margins if self.targeted else margins) + self.confidence

    def hinge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The shortfall cut off at 0, as a loss.

        It vanishes only beyond twice the tolerance, so that a minimum of the loss fulfills :meth:`reached`.

        Args:
            logits: ``(M, K)``.
            labels: ``(M,)``.

        Returns:
            ``(M,)``.
        """
        return (self.shortfall(logits, labels) + 2 * self.rounding(logits.detach())).clamp_min(0)

    def mean_shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the draws of the shortfall plus twice the tolerance.

        Args:
            logits: ``(D, N, K)``.
            labels: ``(N,)``.

        Returns:
            ``(N,)`` float64.
        """
        missing = self.shortfall(logits, labels.expand(len(logits), -1)) + 2 * self.rounding(logits)
        return missing.double().mean(0)

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether every draw reaches the goal by more than the tolerance.

        Args:
            logits: ``(D, N, K)``.
            labels: ``(N,)``.

        Returns:
            ``(N,)`` bool.
        """
        return (self.shortfall(logits, labels.expand(len(logits), -1)) < -self.rounding(logits)).all(0)


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

    Attributes:
        images: ``(N, C, H, W)``, the perturbed images; the image itself without a success.
        distance: ``(N,)`` float64; infinite without a success.
    """

    halvings: ClassVar[int] = 10

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor, norm: Norm, goal: Goal) -> None:
        self._source = source
        self._originals = images
        self._labels = labels
        self._norm = norm
        self._goal = goal
        self._streak = Streak(source, images)
        self.images = images
        self.distance = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)

    def offer(self, iterates: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the iterates that are successes and smaller than the smallest so far.

        Args:
            iterates: ``(N, C, H, W)``.
            logits: ``(D, N, K)``, at the iterates.

        Returns:
            Whether every draw was fooled by this iterate ``(N,)``, and whether this counts as a success ``(N,)``.
        """
        fooled = self._goal.reached(logits, self._labels)
        success = self._streak.offer(fooled)
        self._keep_smaller(iterates, success)
        return fooled, success

    def _keep_smaller(self, candidates: Tensor, success: Tensor) -> None:
        length = distance(candidates, self._originals, self._norm)
        smaller = success & (length < self.distance)
        self.images = torch.where(per_image(smaller, candidates), candidates, self.images)
        self.distance = torch.where(smaller, length, self.distance)

    def start_from(self, perturbed: Tensor, success: Tensor) -> None:
        """Adds perturbed images from another search.

        Args:
            perturbed: ``(N, C, H, W)``.
            success: ``(N,)`` bool: which of them are successes.
        """
        self._keep_smaller(perturbed, success)

    def succeeded(self) -> Tensor:
        """``(N,)`` bool: the images with a success."""
        return self.distance.isfinite()

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
        if self._norm == "l0" or not bool(self.succeeded().any()):
            return
        if self._source.exhaustive:
            self._bisect()
        else:
            self._shorten_by_samples()

    def _scaled(self, factor: Tensor) -> Tensor:
        """The images with their perturbations scaled by factors ``(N,)``, clamped to the box."""
        factors = per_image(factor, self.images).to(self.images.dtype)
        return (self._originals + factors * (self.images - self._originals)).clamp_(0, 1)

    def _bisect(self) -> None:
        """Bisects the scale: ``high`` reaches the goal, ``low`` does not, except that 0 and 1 are never tested."""
        low, high = torch.zeros_like(self.distance), torch.ones_like(self.distance)
        shortest = self.images
        for _ in range(self.halvings):
            middle = (low + high) / 2
            candidates = self._scaled(middle)
            reached = self._goal.reached(self._source.logits(candidates), self._labels)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            shortest = torch.where(per_image(reached, candidates), candidates, shortest)
        self._keep_smaller(shortest, self.succeeded())

    def _shorten_by_samples(self) -> None:
        """Tries the scales 1.5, 1.4, ..., 0.5; each image takes the last one before its first failure."""
        succeeded = self.succeeded()
        # An image whose first scale fails gets scale 1.5 all the same: the larger one is more likely to succeed.
        chosen, unfailed = self._scaled(torch.full_like(self.distance, 1.5)), succeeded
        for tenths in range(15, 4, -1):
            candidates = self._scaled(torch.full_like(self.distance, tenths / 10))
            for _ in range(Streak.steps):
                unfailed = unfailed & self._goal.reached(self._source.logits(candidates), self._labels)
            chosen = torch.where(per_image(unfailed, candidates), candidates, chosen)
        self.images = torch.where(per_image(succeeded, chosen), chosen, self.images)
        length = distance(self.images, self._originals, self._norm)
        self.distance = torch.where(succeeded, length, self.distance)


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
    blocked = ((gradient > 0) & (images <= 0)) | ((gradient < 0) & (images >= 1))
    return gradient.masked_fill(blocked, 0)


def linear_distance(shortfall: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """The distance to the goal for a linear model: the shortfall divided by the dual norm of its gradient.

    Args:
        shortfall: ``(N,)``; a negative one counts as 0.
        gradient: ``(N, C, H, W)``, of the shortfall.
        norm: In l0, a pixel can change by 1 at most, and the result is a lower bound that may be fractional.

    Returns:
        ``(N,)``; infinite where the gradient is 0.

    >>> linear_distance(torch.tensor([10.0]), torch.tensor([[3.0, 4.0]]), "l2")
    tensor([2.])
    """
    # Squares of numbers below 1e-19 underflow, so the gradient is scaled first.
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1)
    slope = largest * torch.linalg.vector_norm(
        flat / largest.clamp_min(torch.finfo(flat.dtype).tiny)[:, None], ord=_DUAL_ORDERS[norm], dim=1
    )
    return torch.where(slope > 0, shortfall.clamp_min(0) / slope.clamp_min(torch.finfo(flat.dtype).tiny), torch.inf)

"""What searches for the smallest perturbation share: the goal, the smallest that reached it, how it is shortened."""

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
    """What the logits have to be.

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
        """A goal that the logits of a source have to reach, beyond their noise."""
        return cls(targeted=targeted, confidence=confidence, noise=measured_noise(source))

    def rounding(self, logits: Tensor) -> Tensor:
        """What decides nothing ``(...)``, of logits ``(..., K)``."""
        return rounding(logits, self.noise)

    def shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how many logits it is missed ``(M,)``, of logits ``(M, K)``, labels ``(M,)``; negative where reached."""
        margins = margin(logits, labels)
        return (-margins if self.targeted else margins) + self.confidence

    def hinge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how much it is missed; it aims beyond what :meth:`reached` asks, to end there and not on the brink."""
        return (self.shortfall(logits, labels) + 2 * self.rounding(logits.detach())).clamp_min(0)

    def mean_shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean ``(N,)`` over draws ``(D, N, K)``, in float64, of what is missing beyond :meth:`reached`."""
        missing = self.shortfall(logits, labels.expand(len(logits), -1)) + 2 * self.rounding(logits)
        return missing.double().mean(0)

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``(N,)``, where all of D draws ``(D, N, K)`` reach it by more than rounding."""
        return (self.shortfall(logits, labels.expand(len(logits), -1)) < -self.rounding(logits)).all(0)


class BestPerturbation:
    """The smallest perturbation of each image that has reached the goal.

    An attack's loop offers its iterates with the logits that it has computed anyway.

    Args:
        source: The source that the logits come from.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        norm: In which perturbations are measured.
        goal: What they have to reach.

    Attributes:
        images: ``(N, C, H, W)``, the perturbed images; the image itself where none has been found.
        distance: ``(N,)`` float64, infinite where none has been found.
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
        """Keeps the iterates ``(N, C, H, W)`` that are smaller than the smallest so far, by their logits ``(D, N, K)``.

        Returns:
            Where every draw was fooled now ``(N,)``, and where that is a success: the same, if these are all draws that
            there are; otherwise see :class:`~robustbench_cli.attacks.base.iterates.Streak`.
        """
        fooled = self._goal.reached(logits, self._labels)
        success = self._streak.offer(fooled)
        self._keep(iterates, success)
        return fooled, success

    def _keep(self, candidates: Tensor, success: Tensor) -> None:
        length = distance(candidates, self._originals, self._norm)
        smaller = success & (length < self.distance)
        self.images = torch.where(per_image(smaller, candidates), candidates, self.images)
        self.distance = torch.where(smaller, length, self.distance)

    def start_from(self, perturbed: Tensor, success: Tensor) -> None:
        """Takes perturbed images ``(N, C, H, W)`` that have been found elsewhere, where they are successes ``(N,)``."""
        self._keep(perturbed, success)

    def succeeded(self) -> Tensor:
        """``(N,)``, where any has reached the goal."""
        return self.distance.isfinite()

    def shorten(self) -> None:
        """Moves every perturbation along the line to its image, by forward passes alone.

        Where the draws are all that there are, it becomes the shortest that a bisection finds. Where they are a sample,
        a perturbation that was kept because it was the smallest of many may owe it to luck: of lengths up to one and a
        half times its own, from the longest down, the last is taken before one that does not fool as many fresh draws
        in a row as the search asked for.
        """
        if self._norm == "l0" or not bool(self.succeeded().any()):
            return
        if self._source.exhaustive:
            self._bisect()
        else:
            self._settle()

    def _at(self, share: Tensor) -> Tensor:
        """The images at a share ``(N,)`` of their perturbations, in the box."""
        shares = per_image(share, self.images).to(self.images.dtype)
        return (self._originals + shares * (self.images - self._originals)).clamp_(0, 1)

    def _bisect(self) -> None:
        low, high = torch.zeros_like(self.distance), torch.ones_like(self.distance)
        shortest = self.images
        for _ in range(self.halvings):
            middle = (low + high) / 2
            candidates = self._at(middle)
            reached = self._goal.reached(self._source.logits(candidates), self._labels)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            shortest = torch.where(per_image(reached, candidates), candidates, shortest)
        self._keep(shortest, self.succeeded())

    def _settle(self) -> None:
        chosen, standing = self._at(torch.full_like(self.distance, 1.5)), self.succeeded()
        for tenths in range(15, 4, -1):
            candidates = self._at(torch.full_like(self.distance, tenths / 10))
            for _ in range(Streak.steps):
                standing = standing & self._goal.reached(self._source.logits(candidates), self._labels)
            chosen = torch.where(per_image(standing, candidates), candidates, chosen)
        self.images = torch.where(per_image(self.succeeded(), chosen), chosen, self.images)
        length = distance(self.images, self._originals, self._norm)
        self.distance = torch.where(self.succeeded(), length, self.distance)


def without_blocked_pixels(gradient: Tensor, images: Tensor) -> Tensor:
    """A gradient ``(N, C, H, W)`` without the pixels at an edge of the box that a descent would push out of it.

    Half of the pixels of some data sets are exactly 0. A step that is spent on those is clipped away, and a slope that
    counts them promises a way that is not there.
    """
    outwards = ((gradient > 0) & (images <= 0)) | ((gradient < 0) & (images >= 1))
    return gradient.masked_fill(outwards, 0)


def linear_distance(shortfall: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """How far a linear model of this shortfall ``(N,)`` and slope ``(N, C, H, W)`` is from its goal: ``(N,)``, or 0.

    A slope of 0 gives infinity. In l0, where a pixel can change by 1 at most, it is a lower bound that need not be
    whole.
    """
    # Far below 1e-19 a square would vanish: scale first.
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1)
    slope = largest * torch.linalg.vector_norm(
        flat / largest.clamp_min(torch.finfo(flat.dtype).tiny)[:, None], ord=_DUAL_ORDERS[norm], dim=1
    )
    return torch.where(slope > 0, shortfall.clamp_min(0) / slope.clamp_min(torch.finfo(flat.dtype).tiny), torch.inf)

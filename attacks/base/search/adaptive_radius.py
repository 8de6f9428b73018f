"""Gradient steps inside a ball whose radius adapts to the decision boundary: the search of the fast minimum-norm attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.minimal_norm import (
    BestPerturbation,
    Shortfall,
    norms,
    slopes,
    without_blocked_pixels,
)
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image

__all__ = ["AdaptiveRadius", "diameter"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveRadius:
    """Steps down the margin, each projected onto a ball around the image: narrower after a success, wider otherwise.

    Step size and gamma follow a half cosine.

    Source: Pintor, Roli, Brendel, Biggio: Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints. NeurIPS
    2021, arXiv 2102.12827, algorithm 1.

    Attributes:
        steps: The number of steps; one gradient each.
        step_size: The length of the first step, in proportion to the radius; see
            :class:`~robustbench_cli.attacks.fmn.FMN`.
        gamma: The relative change of the radius at the first step.
        gamma_final: The same at the last step.
        momentum: The weight of the earlier gradients in the direction of a step. At a kink of a piecewise linear margin,
            the gradients of its sides alternate, and only their mean leads along it.
    """

    steps: int
    step_size: float
    gamma: float
    gamma_final: float
    momentum: float = 0.0

    def descend(
        self,
        start: Tensor,
        images: Tensor,
        radius: Tensor,
        gradient_at: Callable[[Tensor], tuple[Shortfall, Tensor, Tensor]],
        best: BestPerturbation,
    ) -> None:
        """Takes all steps and offers every iterate to ``best``.

        Args:
            start: ``(N, C, H, W)``, the first iterates.
            images: ``(N, C, H, W)``, the clean images.
            radius: ``(N,)``, the first radii. As long as ``best`` has no success, the distance to the linearized decision
                boundary counts instead.
            gradient_at: Maps iterates to their shortfall from the goal of ``best``, to the value ``(N,)`` that the steps
                descend, and to its gradient.
            best: Collects the smallest perturbations, and has the norm.
        """
        norm = best.norm
        widest = diameter(images, norm)
        iterates, average = start, torch.zeros_like(start)
        for step in range(self.steps):
            falling = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            gamma = self.gamma_final + (self.gamma - self.gamma_final) * falling
            shortfall, value, gradient = gradient_at(iterates)
            difference = iterates - images
            lengths = norms(difference, norm)
            verdict = best.offer(iterates, shortfall, lengths)
            direction = without_blocked_pixels(gradient, iterates)
            slope = slopes(direction, norm)
            reach = torch.addcdiv(lengths, value, slope)
            if self.momentum:
                average = torch.addcdiv(average * self.momentum, gradient, per_image(slopes(gradient, norm), gradient))
                direction = without_blocked_pixels(average, iterates)
                slope = slopes(direction, norm)
            first = 3 * reach if norm == "l2" else reach
            if norm == "l0":
                radius = _next_count(best, radius, first, verdict, lengths, gamma)
            else:
                radius = best.next_radius(radius, first, verdict, gamma)
            radius = radius.clamp_max_(widest)
            rate = self.step_size * (0.05 + 0.95 * falling)
            feasible = FeasibleSet(images, Threat(norm=norm, eps=radius))
            if norm == "l2":
                iterates = feasible.shorten(_step(difference, direction, slope, radius, rate, norm))
            else:
                iterates = feasible.project(_step(iterates, direction, slope, radius, rate, norm))
        best.evaluate(iterates)


def _next_count(
    best: BestPerturbation, radius: Tensor, first: Tensor, verdict: Tensor, lengths: Tensor, gamma: float
) -> Tensor:
    """Like :meth:`BestPerturbation.next_radius` in l0: a whole number of pixels, which changes by at least one."""
    base = best.base_radius(radius, first, verdict)
    narrower = torch.minimum((base * (1 - gamma)).floor(), best.distance - 1).clamp_min(0)
    wider = torch.maximum(base * (1 + gamma), lengths * (1 + gamma) + 0.5).ceil().minimum(best.distance)
    return torch.where(verdict < 0, narrower, torch.where(verdict > 0, wider, radius))


def _step(start: Tensor, gradient: Tensor, slope: Tensor, radius: Tensor, rate: float, norm: Norm) -> Tensor:
    """A step of descent, of ``rate`` units; in the sparse norms its length is in l2.

    Args:
        start: ``(N, C, H, W)``, the iterates, or their differences from the images.
        gradient: ``(N, C, H, W)``.
        slope: ``(N,)``, the dual norm of the gradient.
        radius: ``(N,)``.
        rate: The step size.
        norm: The norm of the radius.
    """
    if norm == "linf":
        return torch.addcmul(start, gradient.sign(), per_image(radius, start), value=-rate)
    length = (radius.sqrt() if norm == "l0" else radius) / (slope if norm == "l2" else slopes(gradient, "l2"))
    unit = {"l2": 2.0, "l1": 0.4, "l0": 1.0}[norm]
    return torch.addcmul(start, gradient, per_image(length, start), value=-rate * unit)


def diameter(images: Tensor, norm: Norm) -> float:
    """The length of the diagonal of the box."""
    pixels = images[0].numel()
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels), "l0": float(images[0, 0].numel())}[norm]

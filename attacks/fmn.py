"""The fast minimum-norm attack."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.minimal_norm import (
    BestPerturbation,
    Goal,
    norms,
    slopes,
    without_blocked_pixels,
)
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image

__all__ = ["FMN"]


class FMN(MinimalNormAttack):
    """The fast minimum-norm attack: gradient steps on the margin, inside a ball whose radius adapts.

    Every step descends the margin and is projected onto a ball around the image (algorithm 1). The radius shrinks by the
    factor ``1 - gamma`` where the image is misclassified and grows by ``1 + gamma`` otherwise. Step size and gamma follow a
    half cosine. Before the first success, the radius is the distance to the linearized decision boundary, or three times
    that distance in l2: for a robust model, crossing the boundary far away and following it inwards ends nearer to the
    image.

    The step is in proportion to the radius, so that the scale of the logits does not matter. It follows the sign of the
    gradient in linf and the gradient otherwise. The gradient ignores pixels at the edge of the box that it would push out.
    The result is shortened along the line to the image.
    """

    paper: ClassVar[str] = (
        "Pintor, Roli, Brendel, Biggio: Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints. "
        "NeurIPS 2021, arXiv 2102.12827"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf", "l1", "l0")

    steps: int = Field(100, ge=1, description="steps; one gradient each")
    step_size: float = Field(
        0.5,
        gt=0,
        description="length of the first step relative to the radius (linf), to twice the radius (l2), to two fifths of the radius "
        "(l1, as an l2 length) or to its square root (l0, as an l2 length); decays to a twentieth",
    )
    gamma: float = Field(0.05, gt=0, lt=1, description="relative change of the radius at the first step")
    gamma_final: float = Field(0.001, gt=0, lt=1, description="relative change of the radius at the last step")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        norm = threat.norm
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, norm, goal)
        diameter = _diameter(images, norm)
        radius = torch.full_like(best.distance, diameter)
        iterates = images
        for step in range(self.steps):
            falling = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            gamma = self.gamma_final + (self.gamma - self.gamma_final) * falling
            shortfall, gradient = goal.gradient(source, iterates, labels)
            difference = iterates - images
            lengths = norms(difference, norm)
            verdict = best.offer(iterates, shortfall, lengths)
            gradient = without_blocked_pixels(gradient, iterates)
            slope = slopes(gradient, norm)
            reach = torch.addcdiv(lengths, shortfall.mean(), slope)
            first = 3 * reach if norm == "l2" else reach
            if norm == "l0":
                radius = _next_count(best, radius, first, verdict, lengths, gamma)
            else:
                radius = best.next_radius(radius, first, verdict, gamma)
            radius = radius.clamp_max_(diameter)
            rate = self.step_size * (0.05 + 0.95 * falling)
            feasible = FeasibleSet(images, Threat(norm=norm, eps=radius))
            if norm == "l2":
                iterates = feasible.shorten(_step(difference, gradient, slope, radius, rate, norm))
            else:
                iterates = feasible.project(_step(iterates, gradient, slope, radius, rate, norm))
        best.evaluate(iterates)
        best.shorten()
        return best.images


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


def _diameter(images: Tensor, norm: Norm) -> float:
    """The length of the diagonal of the box."""
    pixels = images[0].numel()
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels), "l0": float(images[0, 0].numel())}[norm]

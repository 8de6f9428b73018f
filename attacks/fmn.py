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
    linear_distance,
    without_blocked_pixels,
)
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, project, steepest_ascent

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
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, threat.norm, goal)
        radius = torch.full_like(best.distance, torch.inf)
        iterates = images
        for step in range(self.steps):
            falling = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            gamma = self.gamma_final + (self.gamma - self.gamma_final) * falling
            logits, gradient = source.gradient(iterates, labels, goal.shortfall)
            fooled, success = best.offer(iterates, logits)
            gradient = without_blocked_pixels(gradient, iterates)
            away = linear_distance(goal.mean_shortfall(logits, labels), gradient, threat.norm)
            reach = distance(iterates, images, threat.norm) + away
            first = 3 * reach if threat.norm == "l2" else reach
            wider = torch.where(best.succeeded(), radius, first) * (1 + gamma)
            narrower = torch.minimum(best.distance, radius) * (1 - gamma)
            if threat.norm == "l0":
                # The radius is a whole number of pixels and changes by at least one.
                wider = torch.maximum(wider, distance(iterates, images, "l0") * (1 + gamma) + 0.5).ceil()
                narrower = torch.minimum(narrower.floor(), best.distance - 1).clamp_min(0)
            radius = torch.where(success, narrower, torch.where(fooled, radius, torch.minimum(wider, best.distance)))
            radius = radius.clamp_max(_diameter(images, threat.norm))
            size = self.step_size * (0.05 + 0.95 * falling) * _unit(radius, threat.norm)
            move = steepest_ascent(gradient, "linf" if threat.norm == "linf" else "l2")
            stepped = iterates - move * per_image(size, images).to(images.dtype)
            iterates = project(stepped, images, Threat(norm=threat.norm, eps=radius))
        best.offer(iterates, source.logits(iterates))
        best.shorten()
        return best.images


def _diameter(images: Tensor, norm: Norm) -> float:
    """The length of the diagonal of the box."""
    pixels = images[0].numel()
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels), "l0": float(images[0, 0].numel())}[norm]


def _unit(radius: Tensor, norm: Norm) -> Tensor:
    """The unit of the step size ``(N,)`` at a ``radius`` ``(N,)``: an l2 length in the sparse norms l1 and l0."""
    if norm == "l0":
        return radius.sqrt()
    return {"linf": 1.0, "l2": 2.0, "l1": 0.4}[norm] * radius

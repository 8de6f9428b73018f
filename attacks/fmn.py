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
    """The fast minimum-norm attack: steps along the margin's gradient, inside a ball that shrinks where they succeed.

    Every step descends the margin and is projected onto a ball around the image (algorithm 1). Its radius shrinks by a
    share gamma where the image is misclassified and grows by it where it is not; before the first success it is where a
    linear model of the margin ends, and in l2 three times as far: of a robust model, a boundary that is crossed far
    away and followed inwards is nearer in the end than the first one on the way. Step size and gamma fall along half a
    period of the cosine.

    The step is in proportion to the radius, so that neither the images' scale nor the logits' matters; in linf it is
    along the gradient's signs, otherwise along the gradient. Pixels at the edge of the box that the gradient would push
    out of it are left out of both the step and the linear model. What is found is shortened along the line to its
    image.
    """

    paper: ClassVar[str] = (
        "Pintor, Roli, Brendel, Biggio: Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints. "
        "NeurIPS 2021, arXiv 2102.12827"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf", "l1", "l0")

    steps: int = Field(100, ge=1, description="gradients an image")
    step_size: float = Field(
        0.5,
        gt=0,
        description="length of the first step over the radius, in l2 over twice the radius; it falls to a twentieth. In l1 "
        "and l0, whose steps are measured in l2, over two fifths of the radius and over its square root",
    )
    gamma: float = Field(0.05, gt=0, lt=1, description="share by which the radius changes at the first step")
    gamma_final: float = Field(0.001, gt=0, lt=1, description="share by which the radius changes at the last step")

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
                # Whole pixels: at least one more or one less at a time.
                wider = torch.maximum(wider, distance(iterates, images, "l0") * (1 + gamma) + 0.5).ceil()
                narrower = torch.minimum(narrower.floor(), best.distance - 1).clamp_min(0)
            radius = torch.where(success, narrower, torch.where(fooled, radius, torch.minimum(wider, best.distance)))
            radius = radius.clamp_max(_diameter(images, threat.norm))
            size = self.step_size * (0.05 + 0.95 * falling) * _unit(radius, threat.norm)
            move = steepest_ascent(gradient, "linf" if threat.norm == "linf" else "l2")
            moved = iterates - move * per_image(size, images).to(images.dtype)
            iterates = project(moved, images, Threat(norm=threat.norm, eps=radius))
        best.offer(iterates, source.logits(iterates))
        best.shorten()
        return best.images


def _diameter(images: Tensor, norm: Norm) -> float:
    """The length of the box's diagonal."""
    pixels = images[0].numel()
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels), "l0": float(images[0, 0].numel())}[norm]


def _unit(radius: Tensor, norm: Norm) -> Tensor:
    """What a step's length is measured by; it is an l2 length where the norm makes few pixels change."""
    if norm == "l0":
        return radius.sqrt()
    return {"linf": 1.0, "l2": 2.0, "l1": 0.4}[norm] * radius

"""Decoupled direction and norm (DDN)."""

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
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["DDN"]


class DDN(MinimalNormAttack):
    """Decoupled direction and norm: gradient steps, each followed by a rescaling of the perturbation to an adaptive norm.

    The norm shrinks by the factor ``1 - gamma`` where the image is misclassified and grows by ``1 + gamma`` otherwise
    (algorithm 1). The step size follows a half cosine. The steps descend the margin rather than the cross-entropy and are
    in proportion to the norm, whose first value is the distance to the linearized decision boundary; so the scale of the
    logits does not matter. The gradient ignores pixels at the edge of the box that it would push out. The result is
    shortened along the line to the image.
    """

    paper: ClassVar[str] = (
        "Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger: Decoupling Direction and Norm for Efficient "
        "Gradient-Based L2 Adversarial Attacks and Defenses. CVPR 2019, arXiv 1811.09600"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(100, ge=1, description="steps; one gradient each")
    gamma: float = Field(0.05, gt=0, lt=1, description="relative change of the norm at every step")
    step_size: float = Field(
        4.0,
        gt=0,
        description="length of the first step relative to the norm of the perturbation; decays to a hundredth",
    )
    targeted_restarts: int = targeted_restarts_field()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "l2", goal)
        # The linearization is not trusted beyond a tenth of the diagonal of the box.
        diagonal = math.sqrt(images[0].numel())
        length = torch.zeros_like(best.distance)
        iterates = images
        for step in range(self.steps):
            shortfall, gradient = goal.gradient(source, iterates, labels)
            difference = iterates - images
            verdict = best.offer(iterates, shortfall, norms(difference, "l2"))
            gradient = without_blocked_pixels(gradient, iterates)
            slope = slopes(gradient, "l2")
            if step == 0:
                away = shortfall.mean() / slope
                length = away.clamp_max(0.1 * diagonal).masked_fill(verdict < 0, 0)
            else:
                length = torch.addcmul(length, length, verdict, value=self.gamma).clamp_max_(diagonal)
            falling = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
            size = per_image(length / slope, images)
            stepped = torch.addcmul(difference, gradient, size, value=-self.step_size * falling)
            factor = length / norms(stepped, "l2").clamp_min_(torch.finfo(images.dtype).tiny)
            iterates = torch.addcmul(images, stepped, per_image(factor, images)).clamp_(0, 1)
        best.evaluate(iterates)
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        best.shorten()
        return best.images

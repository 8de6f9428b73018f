"""The fast minimum-norm attack."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.adaptive_radius import AdaptiveRadius, diameter
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, Shortfall
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat

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
    targeted_restarts: int = targeted_restarts_field()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, threat.norm, goal)

        def gradient_at(iterates: Tensor) -> tuple[Shortfall, Tensor, Tensor]:
            shortfall, gradient = goal.gradient(source, iterates, labels)
            return shortfall, shortfall.mean(), gradient

        search = AdaptiveRadius(
            steps=self.steps, step_size=self.step_size, gamma=self.gamma, gamma_final=self.gamma_final
        )
        radius = torch.full_like(best.distance, diameter(images, threat.norm))
        search.descend(images, images, radius, gradient_at, best)
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        best.shorten()
        return best.images

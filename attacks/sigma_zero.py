"""The sigma-zero attack."""

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
from robustbench_cli.attacks.base.search.adam import bias_corrections, update_moments
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, norms
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat, per_image, scale_by_largest

__all__ = ["SigmaZero"]


class SigmaZero(MinimalNormAttack):
    """Sigma-zero: Adam on the margin plus a smooth approximation of the l0 norm, with a sparsity threshold.

    The approximation is the sum of ``d^2 / (d^2 + sigma)`` over the pixels, whose channels count together. After every
    step, changes below the threshold are set to zero. The threshold rises where the image is misclassified and falls
    otherwise (algorithm 1). The gradient of the margin is scaled to a largest entry of 1 before that of the l0 approximation
    is added, so that the scale of the logits does not matter.
    """

    paper: ClassVar[str] = (
        "Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo: Sigma-zero: Gradient-based Optimization of l0-norm "
        "Adversarial Examples. ICLR 2025, arXiv 2402.01879"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    steps: int = Field(100, ge=1, description="steps; one gradient each")
    lr: float = Field(1.0, gt=0, description="learning rate of Adam at the first step; decays to a tenth")
    sigma: float = Field(1e-3, gt=0, description="smoothing of the l0 approximation; smaller is sharper")
    threshold: float = Field(0.3, ge=0, le=1, description="initial sparsity threshold: smaller changes are set to zero")
    threshold_step: float = Field(0.01, gt=0, description="change of the threshold at the first step")
    targeted_restarts: int = targeted_restarts_field()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "l0", goal)
        threshold = torch.full_like(best.distance, self.threshold)
        change, iterates = torch.zeros_like(images), images
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        lowest, highest = -images, 1 - images
        of_count = 2 * self.sigma / images[0, 0].numel()
        for step in range(1, self.steps + 1):
            shortfall, gradient = goal.gradient(source, iterates, labels, hinge=True)
            verdict = best.offer(iterates, shortfall, norms(change, "l0"))
            falling = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.steps))
            threshold = torch.sub(threshold, verdict, alpha=self.threshold_step * falling).clamp_(0, 1)
            # The slope of the approximation of l0 is 2 sigma d / (|d|^2 + sigma)^2.
            scale = change.square().sum(1, keepdim=True).add_(self.sigma).square_()
            gradient = scale_by_largest(torch.addcdiv(scale_by_largest(gradient), change, scale, value=of_count))
            factor, smallest = bias_corrections(step)
            root = update_moments(gradient, first, second, smallest)
            change = torch.addcdiv(change, first, root, value=-falling * self.lr * factor).clamp_(lowest, highest)
            size = change.square().sum(1, keepdim=True).sqrt_()
            change = change.mul_(size > per_image(threshold, images))
            iterates = (images + change).clamp_(0, 1)
        best.evaluate(iterates)
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        return best.images

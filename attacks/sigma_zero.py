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
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat, per_image

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

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "l0", goal)
        threshold = torch.full_like(best.distance, self.threshold)
        change, iterates = torch.zeros_like(images), images
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        pixels = images[0, 0].numel()
        for step in range(1, self.steps + 1):
            logits, slope = source.gradient(iterates, labels, goal.hinge)
            fooled, success = best.offer(iterates, logits)
            falling = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.steps))
            sign = torch.where(success, 1.0, torch.where(fooled, 0.0, -1.0))
            threshold = (threshold + sign * self.threshold_step * falling).clamp(0, 1)
            squares = change.square().sum(1, keepdim=True)
            count = 2 * self.sigma * change / (squares + self.sigma).square() / pixels
            gradient = _scaled(_scaled(slope) + count)
            first = first.lerp_(gradient, 0.1)
            second = second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            change = change - falling * self.lr / (1 - 0.9**step) * first / scale
            change = (images + change).clamp_(0, 1) - images
            size = change.square().sum(1, keepdim=True).sqrt()
            change = torch.where(size > per_image(threshold, images), change, 0)
            iterates = (images + change).clamp_(0, 1)
        best.offer(iterates, source.logits(iterates))
        return best.images


def _scaled(gradient: Tensor) -> Tensor:
    """The gradient, scaled to a largest absolute entry of 1; a zero gradient stays zero."""
    largest = gradient.flatten(1).abs().amax(1)
    return gradient / per_image(largest.clamp_min(torch.finfo(gradient.dtype).tiny), gradient)

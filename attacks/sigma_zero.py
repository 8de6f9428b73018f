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
    """Sigma-zero: Adam on the margin and a smooth count of the changed pixels; small changes are set to zero.

    The count is the sum of ``d^2 / (d^2 + sigma)`` over pixels, whose channels count together. Changes below a
    threshold are dropped after every step; it rises where the image is misclassified and falls where it is not
    (algorithm 1). The margin's gradient is scaled to a largest entry of 1 before the count's is added, so that the
    logits' scale does not matter.
    """

    paper: ClassVar[str] = (
        "Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo: Sigma-zero: Gradient-based Optimization of l0-norm "
        "Adversarial Examples. ICLR 2025, arXiv 2402.01879"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    steps: int = Field(100, ge=1, description="gradients an image")
    lr: float = Field(1.0, gt=0, description="learning rate of Adam at the first step; it falls to a tenth")
    sigma: float = Field(
        1e-3, gt=0, description="how sharply the smooth count tells a changed pixel from an unchanged one"
    )
    threshold: float = Field(0.3, ge=0, le=1, description="changes below it are dropped at first")
    threshold_step: float = Field(0.01, gt=0, description="by how much the threshold moves at the first step")

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
            moved = torch.where(success, 1.0, torch.where(fooled, 0.0, -1.0)) * self.threshold_step * falling
            threshold = (threshold + moved).clamp(0, 1)
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
    """A gradient whose largest entry is 1, or zero."""
    largest = gradient.flatten(1).abs().amax(1)
    return gradient / per_image(largest.clamp_min(torch.finfo(gradient.dtype).tiny), gradient)

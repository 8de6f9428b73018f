"""The linf attack of Carlini and Wagner."""

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
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, free, linear_distance
from robustbench_cli.attacks.base.threat import Threat, distance, in_proportion, per_image

__all__ = ["CWLinf"]


class CWLinf(MinimalNormAttack):
    """Carlini and Wagner's linf attack: only what a pixel exceeds a bound tau by is penalised, and tau shrinks.

    Minimises ``c f(x + d) + sum_i max(|d_i| - tau, 0)`` (section VI.C), with f the margin, by steps of Adam. An image's
    tau shrinks where it is misclassified. It grows where it is not, up to the smallest perturbation so far, and is
    where a linear model of the margin ends before there is one; so that one run serves instead of one for every tau.

    The penalty, whose slope jumps at tau, is taken by its proximal step: a pixel that exceeds tau is drawn back by a
    multiple of the learning rate, and not beyond it. The margin's gradient is divided by the mean size of its entries,
    so that neither the range of the logits nor c has to be searched for: where a pixel is drawn back by more than a
    step of Adam carries it on, the penalty is exact, and a heavier one would find the same. Pixels at the edge of the
    box that the gradient would push out of it are left out. What is found is shortened along the line to its image.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    steps: int = Field(100, ge=1, description="steps of Adam, each a gradient an image")
    confidence: float = Field(0.0, ge=0, description="the margin, in logits, by which an image must be misclassified")
    lr: float = Field(
        1.0, gt=0, description="learning rate of Adam at the first step, over tau; it falls to a twentieth"
    )
    penalty: float = Field(
        2.0, gt=0, description="how far a step draws a pixel back that exceeds tau, over the learning rate: 1 / c"
    )
    tau_decay: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share by which tau shrinks at the first step; it falls to a hundredth of that",
        json_schema_extra={"formerly": "decrease"},
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, confidence=self.confidence, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "linf", goal)
        tau = torch.full_like(best.distance, torch.inf)
        iterates, adam = images, _Adam(images)
        for step in range(self.steps):
            falling = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            change = self.tau_decay * (0.01 + 0.99 * falling)
            logits, gradient = source.gradient(iterates, labels, goal.shortfall)
            fooled, success = best.offer(iterates, logits)
            gradient = free(gradient, iterates)
            away = linear_distance(goal.mean_shortfall(logits, labels), gradient, "linf")
            reach = distance(iterates, images, "linf") + away
            wider = torch.minimum(torch.where(best.found(), tau, reach) * (1 + change), best.distance)
            narrower = torch.minimum(best.distance, tau) * (1 - change)
            tau = torch.where(success, narrower, torch.where(fooled, tau, wider)).clamp_max(1)
            bound = per_image(tau, images).to(images.dtype)
            rate = self.lr * (0.05 + 0.95 * falling) * bound
            moved = iterates - rate * adam.direction(gradient) - images
            excess = (moved.abs() - bound).clamp_min(0)
            iterates = (images + moved - moved.sign() * excess.minimum(self.penalty * rate)).clamp_(0, 1)
        best.offer(iterates, source.logits(iterates))
        best.shorten()
        return best.images


class _Adam:
    """Adam's directions (Kingma, Ba, ICLR 2015), of gradients whose entries have a mean size of 1 for every image.

    Its memory is shorter than usual, none of the gradient and 2 steps of its square: tau is another one at every step.

    Args:
        images: ``(N, C, H, W)``.
    """

    def __init__(self, images: Tensor) -> None:
        self._second = torch.zeros_like(images)
        self._steps = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Takes the gradient ``(N, C, H, W)`` of a step; returns by how many learning rates to go against it."""
        self._steps += 1
        scaled = in_proportion(gradient)
        size = scaled.flatten(1).abs().mean(1).clamp_min(1 / gradient[0].numel())
        scaled = scaled / per_image(size, gradient)
        self._second = self._second.lerp_(scaled.square(), 0.5)
        return scaled / (self._second / (1 - 0.5**self._steps)).sqrt_().add_(1e-8)

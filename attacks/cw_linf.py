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
from robustbench_cli.attacks.base.search.minimal_norm import (
    BestPerturbation,
    Goal,
    norms,
    slopes,
    without_blocked_pixels,
)
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["CWLinf"]


class CWLinf(MinimalNormAttack):
    """Carlini and Wagner's linf attack: penalizes only the part of a change beyond a bound tau, and shrinks tau.

    Minimizes ``c f(x + d) + sum_i max(|d_i| - tau, 0)`` with Adam (section VI.C), where f is the margin. The paper runs
    once for every tau. Here one run adapts the tau of each image: it shrinks while the image is misclassified and grows
    otherwise, up to the smallest perturbation so far. Before the first success, tau is the distance to the linearized
    decision boundary.

    The penalty has a kink at tau, so it is applied by its proximal step: a pixel beyond tau is pulled back by a multiple
    of the learning rate, and not past tau. The gradient of the margin is divided by its mean absolute entry, so that
    neither the scale of the logits nor c needs a search: the penalty is exact as soon as it pulls a pixel back further
    than a step of Adam moves it. The gradient ignores pixels at the edge of the box that it would push out. The result is
    shortened along the line to the image.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    steps: int = Field(100, ge=1, description="steps of Adam; one gradient each")
    confidence: float = Field(0.0, ge=0, description="margin, in logits, of the misclassification")
    lr: float = Field(
        1.0, gt=0, description="learning rate of Adam at the first step, relative to tau; decays to a twentieth"
    )
    penalty: float = Field(
        2.0, gt=0, description="how far a step pulls back a pixel beyond tau, relative to the learning rate: 1 / c"
    )
    tau_decay: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="relative decrease of tau at the first step; decays to a hundredth of that",
        json_schema_extra={"formerly": "decrease"},
    )
    targeted_restarts: int = targeted_restarts_field()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, confidence=self.confidence, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "linf", goal)
        tau = torch.ones_like(best.distance)
        iterates, adam = images, _Adam(images)
        for step in range(self.steps):
            falling = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            change = self.tau_decay * (0.01 + 0.99 * falling)
            shortfall, gradient = goal.gradient(source, iterates, labels)
            difference = iterates - images
            lengths = norms(difference, "linf")
            verdict = best.offer(iterates, shortfall, lengths)
            gradient = without_blocked_pixels(gradient, iterates)
            slope = slopes(gradient, "linf")
            reach = torch.addcdiv(lengths, shortfall.mean(), slope)
            tau = best.next_radius(tau, reach, verdict, change).clamp_max_(1)
            bound = per_image(tau, images)
            rate = self.lr * (0.05 + 0.95 * falling)
            moved = torch.addcmul(difference, adam.direction(gradient, slope), bound, value=-rate)
            sizes = moved.abs()
            # A pixel beyond tau is pulled back, and not past tau.
            pulled = torch.maximum(sizes.minimum(bound), sizes.sub(bound, alpha=self.penalty * rate))
            iterates = pulled.copysign_(moved).add_(images).clamp_(0, 1)
        best.evaluate(iterates)
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        best.shorten()
        return best.images


class _Adam:
    """Adam's directions (Kingma, Ba, ICLR 2015) for gradients scaled to a mean absolute entry of 1.

    Tau changes at every step, so the memory is short: ``beta_1 = 0`` and ``beta_2 = 0.5``.

    Args:
        images: ``(N, C, H, W)``.
    """

    def __init__(self, images: Tensor) -> None:
        self._second = torch.zeros_like(images)
        self._steps = 0

    def direction(self, gradient: Tensor, slope: Tensor) -> Tensor:
        """The direction ``(N, C, H, W)`` of the next step, in learning rates.

        Args:
            gradient: ``(N, C, H, W)``.
            slope: ``(N,)``, the sum of the gradient's absolute entries.
        """
        self._steps += 1
        scaled = gradient / per_image(slope / gradient[0].numel(), gradient)
        self._second.mul_(0.5).addcmul_(scaled, scaled, value=0.5)
        return scaled / (self._second / (1 - 0.5**self._steps)).sqrt_().add_(1e-8)

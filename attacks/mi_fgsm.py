"""The momentum iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image, scale_by_largest

__all__ = ["MIFGSM"]


class MIFGSM(FixedRadiusAttack):
    """Momentum iterative FGSM: signed steps along a running sum of normalized gradients, for transferable examples.

    ``g <- decay g + grad / |grad|_1``, ``x <- project(x + step_size sign(g))``, from the image itself (algorithm 1). Every
    image takes all steps and the last iterate is returned, because examples that fool this model by a large margin transfer
    more often than examples just beyond the decision boundary.
    """

    paper: ClassVar[str] = (
        "Dong, Liao, Pang, Su, Zhu, Hu, Li: Boosting Adversarial Attacks with Momentum. CVPR 2018, arXiv 1710.06081"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    steps: int = Field(10, ge=1, description="number of steps")
    step_size: float | None = Field(None, gt=0, description="step size on the [0, 1] pixel scale; default eps / steps")
    decay: float = Field(1.0, ge=0, description="decay factor of the momentum (mu in the paper)")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        sizes = threat.eps / self.steps if self.step_size is None else torch.full_like(threat.eps, self.step_size)
        size = per_image(sizes, images).to(images.dtype)
        size = -size if threat.targeted else size
        feasible = FeasibleSet(images, threat)
        iterates, momentum, correction = images, torch.zeros_like(images), None
        for step in range(self.steps):
            points = self.look_ahead(iterates, momentum, size)
            gradient = self.gradient(source, points, labels, threat, random)
            scaled = scale_by_largest(gradient if correction is None else gradient + correction)
            if step + 1 < self.steps:
                correction = self.correction(source, iterates, gradient, labels, threat, random)
            length = torch.linalg.vector_norm(scaled.flatten(1), ord=1, dim=1).clamp_min_(1)
            momentum = torch.add(scaled.div_(per_image(length, images)), momentum, alpha=self.decay)
            iterates = feasible.project(torch.addcmul(iterates, momentum.sign(), size))
        return iterates

    def look_ahead(self, iterates: Tensor, momentum: Tensor, size: Tensor) -> Tensor:
        """The points ``(N, C, H, W)`` at which the gradient is taken: here the iterates themselves.

        Args:
            iterates: ``(N, C, H, W)``.
            momentum: ``(N, C, H, W)``.
            size: ``(N, 1, 1, 1)``, the step sizes; negative for a targeted threat.
        """
        return iterates

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        """The gradient ``(N, C, H, W)`` that is added to the momentum: here that of the cross-entropy.

        Args:
            source: Gives logits and gradients.
            points: ``(N, C, H, W)``, where the gradient is taken.
            labels: ``(N,)``.
            threat: Its radii are used.
            random: Random numbers for each image.
        """
        return source.gradient(points, labels, cross_entropy)[1]

    def correction(
        self, source: GradientSource, iterates: Tensor, gradient: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor | None:
        """What is added to the gradient of the next step: ``(N, C, H, W)``, or ``None`` for nothing, as here.

        Args:
            source: Gives logits and gradients.
            iterates: ``(N, C, H, W)``.
            gradient: ``(N, C, H, W)``, this step's :meth:`gradient`.
            labels: ``(N,)``.
            threat: Its radii are used.
            random: Random numbers for each image.
        """
        return None

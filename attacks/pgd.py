"""Projected gradient descent."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import BestIterates, FixedRadiusAttack
from robustbench_cli.attacks.base.losses import Loss, cross_entropy
from robustbench_cli.attacks.base.random import Random
from robustbench_cli.attacks.base.source import GradientSource
from robustbench_cli.attacks.base.threat import Norm, Threat, per_image, project, random_in_ball, steepest_ascent

__all__ = ["PGD"]


class PGD(FixedRadiusAttack):
    """Projected gradient descent on the cross-entropy, from random starts.

    ``x <- project(x + step_size * direction(grad))`` (equation 2.1 of the paper's section 2.1), with the sign of the
    gradient in linf and the normalised gradient in l2. Of all iterates of all restarts the one with the smallest expected
    margin is returned. An image that has fallen in every draw there is leaves the batch.
    """

    paper: ClassVar[str] = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. "
        "ICLR 2018, arXiv 1706.06083"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    loss: ClassVar[Loss] = staticmethod(cross_entropy)

    steps: int = Field(40, ge=1, description="steps of each restart")
    step_size: float | None = Field(
        None, gt=0, description="length of a step on the [0, 1] pixel scale; 2.5 eps / steps where not given"
    )
    restarts: int = Field(1, ge=1, description="runs from different random starts; only what still stands is run again")
    random_start: bool = Field(True, description="start uniformly inside the ball rather than at the image")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        for _ in range(self.restarts):
            rows = best.begin()
            if not len(rows):
                break
            self._restart(source, images[rows], labels[rows], threat.select(rows), random.select(rows), best)
        return best.images

    def _restart(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, best: BestIterates
    ) -> None:
        iterates = project(images + random_in_ball(images, threat, random), images, threat) if self.random_start else images
        step_size = self._step_sizes(threat, images)
        for _ in range(self.steps):
            logits, gradient = source.gradient(iterates, labels, self.loss)
            going_on = best.offer(iterates, logits)
            if going_on is not None:
                if not len(going_on):
                    return
                images, labels, threat = images[going_on], labels[going_on], threat.select(going_on)
                iterates, gradient, step_size = iterates[going_on], gradient[going_on], step_size[going_on]
            step = steepest_ascent(gradient, threat.norm).mul_(step_size)
            iterates = project(iterates - step if threat.targeted else iterates + step, images, threat)
        best.offer(iterates, source.logits(iterates))

    def _step_sizes(self, threat: Threat, images: Tensor) -> Tensor:
        sizes = 2.5 * threat.eps / self.steps if self.step_size is None else torch.full_like(threat.eps, self.step_size)
        return per_image(sizes, images).to(images.dtype)

"""Projected gradient descent."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import (
    Threat,
    per_image,
    project,
    random_in_ball,
    sparse_ascent,
    steepest_ascent,
)

__all__ = ["PGD"]


class PGD(FixedRadiusAttack):
    """Projected gradient descent on the cross-entropy, from random starts.

    ``x <- project(x + step_size * direction(grad))`` (section 2.1 of the paper), with the sign of the
    gradient in linf, the normalised gradient in l2, and in l1 a step that is spread evenly over the pixels of the
    largest slopes (Tramer, Boneh, NeurIPS 2019, section 2.2). Of all iterates of all restarts the one with the smallest
    expected margin is returned. An image that has fallen in every draw there is leaves the batch.
    """

    paper: ClassVar[str] = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. "
        "ICLR 2018, arXiv 1706.06083"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(40, ge=1, description="steps of each restart")
    step_size: float | None = Field(
        None,
        gt=0,
        description="length of every step on the [0, 1] pixel scale; where not given, it falls evenly from 2 eps to 0",
    )
    restarts: int = Field(1, ge=1, description="runs from different random starts; only what still stands is run again")
    random_start: bool = Field(True, description="start uniformly inside the ball rather than at the image")
    l1_sparsity: float = Field(
        0.03,
        gt=0,
        le=1,
        description="share of the pixels that a step changes in l1",
        json_schema_extra={"formerly": "moved"},
    )

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """What the steps climb (descend, if targeted): ``(M,)`` of logits ``(M, K)`` and labels ``(M,)``."""
        return cross_entropy(logits, labels)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        for rows, stream in best.restarts(self.restarts, random):
            self._restart(source, images[rows], labels[rows], threat.select(rows), stream, best)
        return best.images

    def _restart(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, best: BestIterates
    ) -> None:
        iterates = (
            project(images + random_in_ball(images, threat, random), images, threat) if self.random_start else images
        )
        for step in range(self.steps):
            logits, gradient = source.gradient(iterates, labels, self.loss)
            going_on = best.offer(iterates, logits)
            if going_on is not None:
                if not len(going_on):
                    return
                images, labels, threat = images[going_on], labels[going_on], threat.select(going_on)
                iterates, gradient = iterates[going_on], gradient[going_on]
            move = self._direction(-gradient if threat.targeted else gradient, iterates, threat)
            iterates = project(iterates + move * self._step_sizes(step, threat, images), images, threat)
        best.offer(iterates, source.logits(iterates))

    def _direction(self, gradient: Tensor, iterates: Tensor, threat: Threat) -> Tensor:
        if threat.norm == "l1":
            return sparse_ascent(
                gradient, iterates, torch.full_like(threat.eps, self.l1_sparsity * gradient[0].numel())
            )
        return steepest_ascent(gradient, threat.norm)

    def _step_sizes(self, step: int, threat: Threat, images: Tensor) -> Tensor:
        falling = 2 * threat.eps * (1 - step / self.steps)
        sizes = falling if self.step_size is None else torch.full_like(threat.eps, self.step_size)
        return per_image(sizes, images).to(images.dtype)

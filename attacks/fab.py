"""The fast adaptive boundary attack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.boundary_steps import BoundarySteps
from robustbench_cli.attacks.base.search.linearization import nearest_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts, targeted_restarts_field
from robustbench_cli.attacks.base.threat import Threat, random_in_ball

__all__ = ["FAB"]


class FAB(MinimalNormAttack):
    """The fast adaptive boundary attack: steps to the nearest linearized boundary, biased towards the original image.

    Both the iterate and the image are projected onto the linearization of the nearest class boundary, inside the box. The
    next iterate lies between the two projections, closer to the image's where that step is shorter (section
    2.3). A successful iterate is instead moved back towards the image (the backward step). The result is shortened
    along the line to the image.
    """

    paper: ClassVar[str] = (
        "Croce, Hein: Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack. ICML 2020, "
        "arXiv 1907.02044"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(100, ge=1, description="steps of each restart; one gradient for each class considered")
    restarts: int = Field(
        1, ge=1, description="number of runs; the first starts at the image, the others at random points near it"
    )
    alpha_max: float = Field(0.1, ge=0, le=1, description="largest weight of the projection of the original image")
    eta: float = Field(
        1.05,
        ge=1,
        description="overshoot of a step beyond the plane, as a factor",
        json_schema_extra={"formerly": "overshoot"},
    )
    beta: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="factor of the backward step, which shrinks a successful perturbation",
        json_schema_extra={"formerly": "backward"},
    )
    n_target_classes: int = Field(
        9,
        ge=1,
        description="number of other classes considered, the most likely ones first",
        json_schema_extra={"formerly": "classes"},
    )
    targeted_restarts: int = targeted_restarts_field()

    def min_classes(self, *, targeted: bool) -> int:
        return 2 if targeted else self.n_target_classes + 1

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, threat.norm, goal)
        for start in self._starts(images, best, threat.norm, random):
            plane = partial(
                nearest_plane, source, labels=labels, goal=goal, classes=self.n_target_classes, norm=threat.norm
            )
            self._boundary_steps.descend(start, images, plane, best)
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        best.shorten()
        return best.images

    def _starts(self, images: Tensor, best: BestPerturbation, norm: Norm, random: Random) -> Iterator[Tensor]:
        yield images
        for _ in range(self.restarts - 1):
            radius = torch.where(best.succeeded(), best.distance / 2, 0)
            yield (images + random_in_ball(images, Threat(norm=norm, eps=radius), random)).clamp(0, 1)

    @property
    def _boundary_steps(self) -> BoundarySteps:
        return BoundarySteps(steps=self.steps, alpha_max=self.alpha_max, eta=self.eta, beta=self.beta)

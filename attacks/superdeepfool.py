"""SuperDeepFool."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.linearization import nearest_plane, short_step_to_plane, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["SuperDeepFool"]


class SuperDeepFool(MinimalNormAttack):
    """SuperDeepFool: DeepFool's steps, alternating with projections of the image onto the linearized boundary.

    An unsuccessful iterate takes a step of DeepFool, inside the box. At a successful iterate, the image itself is projected
    onto the linearization of the decision boundary, which makes the perturbation orthogonal to the boundary, as a minimal
    one is. The next iterate lies halfway to that projection: the boundary is curved, and full steps oscillate around the
    nearest point. The result is shortened along the line to the image.
    """

    paper: ClassVar[str] = (
        "Abdollahpoor, Abroshan, Moosavi-Dezfooli: Revisiting DeepFool: Generalization and Improvement. 2023, "
        "arXiv 2303.12481"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(30, ge=1, description="number of steps of both kinds; one gradient for each class considered")
    overshoot: float = Field(0.02, ge=0, description="relative overshoot of every step beyond the linearized boundary")
    candidates: int = Field(
        9,
        ge=1,
        description="number of other classes considered, the most likely ones first",
        json_schema_extra={"formerly": "classes"},
    )

    def min_classes(self, *, targeted: bool) -> int:
        return 2 if targeted else self.candidates + 1

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "l2", goal)
        iterates = images
        for _ in range(self.steps):
            shortfall, plane = nearest_plane(source, iterates, labels, goal, classes=self.candidates, norm="l2")
            verdict = per_image(best.offer(iterates, shortfall), images)
            step = short_step_to_plane(iterates, plane, "l2")
            forward = torch.add(iterates, step, alpha=1 + self.overshoot)
            orthogonal = images + step_to_plane(images, plane.slope, plane.value_at(images, iterates), "l2")
            backward = torch.lerp(iterates, orthogonal, 0.5)
            # An iterate that fooled one sample of draws, but not yet enough in a row, is evaluated again.
            moved = torch.where(verdict > 0, forward, torch.where(verdict < 0, backward, iterates))
            iterates = moved.clamp_(0, 1)
        best.evaluate(iterates)
        best.shorten()
        return best.images

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
    """SuperDeepFool: DeepFool's steps, and from every point beyond the boundary back to the point nearest the image.

    An iterate that has not succeeded takes a step of DeepFool, inside the box. From one that has, the image itself takes
    the shortest step inside the box to the plane that stands for the boundary there, which makes the perturbation
    orthogonal to it as a smallest one is. The next iterate lies halfway to where that step ends: the boundary is
    curved, and whole steps go to and fro across the nearest point. What is found is shortened along the line to its
    image.
    """

    paper: ClassVar[str] = (
        "Abdollahpoor, Abroshan, Moosavi-Dezfooli: Revisiting DeepFool: Generalization and Improvement. 2023, "
        "arXiv 2303.12481"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(30, ge=1, description="steps of both kinds; each takes a gradient for each class")
    overshoot: float = Field(0.02, ge=0, description="share by which every step goes beyond the plane")
    candidates: int = Field(
        9,
        ge=1,
        description="number of other classes considered, the most likely ones first",
        json_schema_extra={"formerly": "classes"},
    )

    def fewest_classes(self, *, targeted: bool) -> int:
        return 2 if targeted else self.candidates + 1

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = Goal.of(source, targeted=threat.targeted)
        best = BestPerturbation(source, images, labels, "l2", goal)
        iterates = images
        for _ in range(self.steps):
            logits, plane = nearest_plane(source, iterates, labels, goal, classes=self.candidates, norm="l2")
            fooled, success = best.offer(iterates, logits)
            step = short_step_to_plane(iterates, plane, "l2")
            ahead = iterates + (1 + self.overshoot) * step
            orthogonal = images + step_to_plane(images, plane.slope, plane.value_at(images, iterates), "l2")
            back = (iterates + orthogonal) / 2
            # Fooled by a sample of the draws, but not often enough in a row: the same point is asked again.
            stay = per_image(fooled & ~success, images)
            moved = torch.where(per_image(success, images), back, ahead).clamp_(0, 1)
            iterates = torch.where(stay, iterates, moved)
        best.offer(iterates, source.logits(iterates))
        best.shorten()
        return best.images

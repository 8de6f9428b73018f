"""DeepFool."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.linearization import free_step_to_plane, nearest_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["DeepFool"]


class DeepFool(MinimalNormAttack):
    """DeepFool: iterative steps to the nearest linearized decision boundary, until the image is misclassified.

    A fast first estimate rather than the smallest perturbation (algorithm 2). The linearizations and the steps ignore the
    box; each iterate is clipped to it. An image stops at its first success. The result is shortened along the line to the
    image.
    """

    paper: ClassVar[str] = (
        "Moosavi-Dezfooli, Fawzi, Frossard: DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks. "
        "CVPR 2016, arXiv 1511.04599"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")

    steps: int = Field(50, ge=1, description="maximum number of steps; one gradient for each class considered")
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
        best = BestPerturbation(source, images, labels, threat.norm, goal)
        best.evaluate(images)
        iterates = images
        for _ in range(self.steps):
            rows = best.remaining()
            if not len(rows):
                break
            points = iterates[rows]
            shortfall, plane = nearest_plane(
                source, points, labels[rows], goal, classes=self.candidates, norm=threat.norm, box=False, rows=rows
            )
            verdict = best.offer(iterates, shortfall.spread(rows, len(images)))
            step = free_step_to_plane(plane, threat.norm)
            ahead = torch.add(points, step, alpha=1 + self.overshoot).clamp_(0, 1)
            ahead = torch.where(per_image(verdict[rows] > 0, points), ahead, points)
            iterates = iterates.index_copy(0, rows, ahead)
        best.evaluate(iterates)
        best.shorten()
        return best.images

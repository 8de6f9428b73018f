"""The fast adaptive boundary attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.linearization import nearest_plane, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, random_in_ball

__all__ = ["FAB"]


class FAB(MinimalNormAttack):
    """The fast adaptive boundary attack: steps to the nearest linear boundary, drawn towards the original image.

    From both the iterate and the image, the shortest step inside the box is taken to the plane that stands for the
    nearest class boundary; the next iterate lies between their ends, nearer the image the shorter its step is (section
    2.3). From an iterate that succeeded it is moved back towards the image first. What is found is shortened along the
    line to its image.
    """

    paper: ClassVar[str] = (
        "Croce, Hein: Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack. ICML 2020, "
        "arXiv 1907.02044"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(100, ge=1, description="steps of each restart; each takes a gradient for each class")
    restarts: int = Field(
        1, ge=1, description="runs; the first begins at the image, each other at a random point near it"
    )
    alpha_max: float = Field(0.1, ge=0, le=1, description="the largest weight of the original image's own step")
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

    def fewest_classes(self, *, targeted: bool) -> int:
        return 2 if targeted else self.n_target_classes + 1

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestPerturbation(source, images, labels, threat.norm, Goal.of(source, targeted=threat.targeted))
        for start in self._starts(images, best, threat.norm, random):
            self._search(source, images, start, labels, Goal.of(source, targeted=threat.targeted), threat.norm, best)
        best.shorten()
        return best.images

    def _starts(self, images: Tensor, best: BestPerturbation, norm: Norm, random: Random) -> Iterator[Tensor]:
        yield images
        for _ in range(self.restarts - 1):
            radius = torch.where(best.found(), best.distance / 2, 0)
            yield (images + random_in_ball(images, Threat(norm=norm, eps=radius), random)).clamp(0, 1)

    def _search(
        self,
        source: GradientSource,
        images: Tensor,
        start: Tensor,
        labels: Tensor,
        goal: Goal,
        norm: Norm,
        best: BestPerturbation,
    ) -> None:
        """Takes all steps from ``start``, towards ``labels`` if ``goal`` is targeted, and offers every iterate."""
        iterates = start
        for _ in range(self.steps):
            logits, plane = nearest_plane(source, iterates, labels, goal, classes=self.n_target_classes, norm=norm)
            fooled, success = best.offer(iterates, logits)
            from_iterate = step_to_plane(iterates, plane.slope, plane.value, norm)
            from_image = step_to_plane(images, plane.slope, plane.value_at(images, iterates), norm)
            length = distance(iterates + from_iterate, iterates, norm)
            of_image = distance(images + from_image, images, norm)
            alpha = (length / (length + of_image).clamp_min(1e-12)).clamp_max(self.alpha_max)
            weight = per_image(alpha, images).to(images.dtype)
            ahead = (1 - weight) * (iterates + self.eta * from_iterate)
            ahead = (ahead + weight * (images + self.eta * from_image)).clamp_(0, 1)
            back = images + self.beta * (iterates - images)
            # Fooled by a sample of the draws, but not often enough in a row: the same point is asked again.
            stay = per_image(fooled & ~success, images)
            moved = torch.where(per_image(success, images), back, ahead)
            iterates = torch.where(stay, iterates, moved)
        best.offer(iterates, source.logits(iterates))

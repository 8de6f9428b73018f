"""Steps to the linearized decision boundary, biased towards the image: the search of the fast adaptive boundary attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_cli.attacks.base.search.linearization import Plane, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Shortfall, norms
from robustbench_cli.attacks.base.threat import per_image

__all__ = ["BoundarySteps"]


@dataclass(frozen=True, kw_only=True)
class BoundarySteps:
    """Projections of the iterate and of the image onto a plane; a successful iterate moves back towards the image.

    Source: Croce, Hein: Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack. ICML 2020, arXiv
    1907.02044, algorithm 1.

    Attributes:
        steps: The number of steps.
        alpha_max: The largest weight of the projection of the image.
        eta: The overshoot of a step beyond the plane, as a factor.
        beta: The factor by which a successful perturbation shrinks.
    """

    steps: int
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def descend(
        self,
        start: Tensor,
        images: Tensor,
        plane_at: Callable[[Tensor], tuple[Shortfall, Plane]],
        best: BestPerturbation,
        *,
        pixels: Tensor | None = None,
    ) -> None:
        """Takes all steps and offers every iterate to ``best``.

        Args:
            start: ``(N, C, H, W)``, the first iterates.
            images: ``(N, C, H, W)``, the clean images.
            plane_at: Maps iterates to the planes to step to, with the shortfall from the goal of ``best``.
            best: Collects the smallest perturbations, and has the norm.
            pixels: ``(N, C, H, W)`` bool, the entries that the first half of the steps moves; ``None`` for all.
        """
        iterates = start
        for step in range(self.steps):
            shortfall, plane = plane_at(iterates)
            verdict = per_image(best.offer(iterates, shortfall), images)
            slope = plane.slope if pixels is None or 2 * step >= self.steps else plane.slope * pixels
            points = torch.stack([iterates, images])
            values = torch.stack([plane.value, plane.value_at(images, iterates)])
            moves = step_to_plane(points, slope.unsqueeze(0), values, best.norm)
            length, image_length = norms(moves, best.norm, dims=2)
            alpha = (length / (length + image_length).clamp_min_(1e-12)).clamp_max_(self.alpha_max)
            projected, image_projected = points.add_(moves, alpha=self.eta)
            forward = torch.lerp(projected, image_projected, per_image(alpha, images)).clamp_(0, 1)
            backward = torch.lerp(images, iterates, self.beta)
            # An iterate that fooled one sample of draws, but not yet enough in a row, is evaluated again.
            iterates = torch.where(verdict > 0, forward, torch.where(verdict < 0, backward, iterates))
        best.evaluate(iterates)

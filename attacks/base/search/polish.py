"""A polish of the smallest perturbations: steps that converge where the decision boundary of a network has a kink."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.search.adaptive_radius import AdaptiveRadius
from robustbench_cli.attacks.base.search.linearization import plane_of_goal, step_to_plane
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Shortfall
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image

__all__ = ["polish"]

# The numbers were tuned together with those of the targeted restarts.
_PLANES = 5

_OVERSHOOT = 1e-3
"""How far beyond the mean plane a step goes, relative to its distance from the image."""

_SHRINK = 0.995
"""The first radius of the search, relative to the smallest perturbation so far."""

_SEARCH = AdaptiveRadius(steps=40, step_size=0.3, gamma=0.05, gamma_final=0.0005, momentum=0.9)


def polish(source: GradientSource, images: Tensor, labels: Tensor, best: BestPerturbation) -> None:
    """Makes the smallest perturbations smaller, with at most 45 gradients.

    The boundary of a ReLU network is piecewise linear. The nearest point of it is often at a kink, and there the steps of
    gradient attacks zigzag between the pieces. Two searches do not:

    - The image is projected onto the mean of the linearizations at the perturbed image and at the earlier
      projections, five times. The mean of the planes that meet at a kink has the nearest point of the kink as its own, for
      the right weights (the dual of the projection onto their intersection). It also makes l1 perturbations sparse.
      For deterministic or enumerated draws only, and not in l0.
    - Forty steps with an adaptive radius follow a moving average of their gradients.

    Args:
        source: Computes the gradients.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        best: The smallest perturbations, which are replaced by smaller ones.
    """
    if source.exhaustive and best.norm != "l0":
        _project_onto_mean_planes(source, images, labels, best)

    def gradient_at(iterates: Tensor) -> tuple[Shortfall, Tensor, Tensor]:
        shortfall, gradient = best.goal.gradient(source, iterates, labels)
        return shortfall, shortfall.mean(), gradient

    radius = torch.where(best.succeeded(), _SHRINK * best.distance, 0)
    start = FeasibleSet(images, Threat(norm=best.norm, eps=radius)).project(best.images)
    _SEARCH.descend(start, images, radius, gradient_at, best)


def _project_onto_mean_planes(source: GradientSource, images: Tensor, labels: Tensor, best: BestPerturbation) -> None:
    points, mean = best.images, torch.zeros_like(images)
    value = torch.full((len(images),), 1 + _OVERSHOOT, dtype=torch.float64, device=images.device)
    for step in range(1, _PLANES + 1):
        shortfall, plane = plane_of_goal(source, points, labels, best.goal)
        best.offer(points, shortfall)
        # A plane counts if the image has not crossed it. Each is scaled to the value 1 at the image.
        at_image = plane.value_at(images, points)
        usable = at_image > 0
        scaled = plane.slope * per_image(torch.where(usable, 1 / at_image, 0), images).to(images.dtype)
        mean = torch.where(per_image(usable, images), torch.lerp(mean, scaled, 1 / step), mean)
        points = (images + step_to_plane(images, mean, value, best.norm)).clamp(0, 1)
    best.evaluate(points)

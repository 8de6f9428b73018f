from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.adaptive_radius import AdaptiveRadius, diameter
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, Shortfall
from robustbench_cli.attacks.base.threat import distance

from ...conftest import LinearVictim


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_ends_at_the_boundary(norm: Norm, momentum: float, linear_victim: Callable[..., LinearVictim]) -> None:
    """Of a linear model with two classes, at the closed-form distance within 1 %."""
    victim = linear_victim(2)
    source = EOT(victim.model)
    goal = Goal.of(source, targeted=False)
    best = BestPerturbation(source, victim.images, victim.labels, norm, goal)

    def gradient_at(iterates: Tensor) -> tuple[Shortfall, Tensor, Tensor]:
        shortfall, gradient = goal.gradient(source, iterates, victim.labels)
        return shortfall, shortfall.mean(), gradient

    search = AdaptiveRadius(steps=60, step_size=0.5, gamma=0.05, gamma_final=0.001, momentum=momentum)
    radius = torch.full((24,), diameter(victim.images, norm))
    search.descend(victim.images, victim.images, radius, gradient_at, best)
    torch.testing.assert_close(best.distance, victim.radii(norm).float(), rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_diameter_is_the_distance_of_opposite_corners(norm: Norm) -> None:
    """Of black and white images."""
    black = torch.zeros(1, 3, 4, 5)
    assert diameter(black, norm) == pytest.approx(distance(torch.ones_like(black), black, norm).item())

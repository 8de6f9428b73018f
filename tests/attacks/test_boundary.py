from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.boundary import Boundary

from .conftest import LinearVictim


def test_boundary_finds_the_nearest_image(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model the walk's median distance is the closed form's, but for 5 %."""
    victim = linear_victim(2)
    perturbed = Boundary(queries=1000)(victim.model, victim.images, victim.labels, norm="l2")
    assert victim.accuracy(perturbed) == 0
    ratio = distance(perturbed, victim.images, "l2") / victim.radii("l2")
    assert 1 <= ratio.median() < 1.05

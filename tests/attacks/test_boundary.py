from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.boundary import Boundary

from .conftest import LinearVictim


def test_boundary_finds_the_nearest_image(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model the walk's median distance is the closed form's, but for 5 %."""
    assert 1 <= linear_victim(2).median_ratio(Boundary(queries=1000), "l2") < 1.05

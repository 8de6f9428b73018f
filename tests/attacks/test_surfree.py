from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.surfree import SurFree

from .conftest import LinearVictim


def test_surfree_finds_the_nearest_image(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model its median distance is the closed form's, but for 5 %."""
    assert 1 <= linear_victim(2).median_ratio(SurFree(queries=600), "l2") < 1.05

from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.rays import RayS

from .conftest import LinearVictim


def test_rays_finds_the_nearest_image(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model it finds the signs of the nearest image, with 1,000 queries, up to its bisection.

    The closed form is the distance in linf, which only the right signs attain.
    """
    assert 1 <= linear_victim(2).median_ratio(RayS(queries=1000), "linf") < 1.01

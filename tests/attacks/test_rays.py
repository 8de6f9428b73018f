from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.rays import RayS

from .conftest import LinearVictim


def test_rays_finds_the_nearest_image(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model it finds the signs of the nearest image, with 1,000 queries, to the tolerance of its bisection.

    The closed form is the distance in linf, which only the right signs attain.
    """
    victim = linear_victim(2)
    perturbed = RayS(queries=1000)(victim.model, victim.images, victim.labels, norm="linf")
    assert victim.accuracy(perturbed) == 0
    ratio = distance(perturbed, victim.images, "linf") / victim.radii("linf")
    assert 1 <= ratio.median() < 1.01
    assert ratio.max() < 1.05

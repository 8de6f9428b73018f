from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.geoda import GeoDA

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_geoda_finds_the_nearest_image(norm: Any, linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model its median distance is the closed form's, but for 5 %."""
    victim = linear_victim(2)
    perturbed = GeoDA(queries=2500)(victim.model, victim.images, victim.labels, norm=norm)
    assert victim.accuracy(perturbed) == 0
    ratio = distance(perturbed, victim.images, norm) / victim.radii(norm)
    assert 1 <= ratio.median() < 1.05

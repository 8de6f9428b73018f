from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_cli.attacks.geoda import GeoDA

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_geoda_finds_the_nearest_image(norm: Any, linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model its median distance is the closed form's, but for 5 %."""
    assert 1 <= linear_victim(2).median_ratio(GeoDA(queries=2500), norm) < 1.05

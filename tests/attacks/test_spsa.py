from __future__ import annotations

from collections.abc import Callable

import pytest

from robustbench_cli.attacks.spsa import SPSA

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hardly_more_than_the_exact_distance_is_enough(norm: str, linear_victim: Callable[..., LinearVictim]) -> None:
    """The estimates of the gradient lead to the boundary in both norms."""
    linear_victim(2).assert_falls_beyond_the_boundary(SPSA(), norm, 1.05)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.spsa import SPSA

from .conftest import LinearVictim


@pytest.mark.parametrize(
    ("attack", "norm", "excess"),
    [
        (SPSA(), "linf", 1.05),
        (SPSA(), "l2", 1.05),
    ],
    ids=repr,
)
def test_hardly_more_than_the_exact_distance_is_enough(
    attack: Attack, norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """At a radius a little above the distance to the boundary all images fall; a little below it none does."""
    victim = linear_victim(2)
    radii = victim.radii(norm).double()
    above, below = radii * excess, radii - 1e-3
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, norm=norm, eps=above)) == 0
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, norm=norm, eps=below)) == 1

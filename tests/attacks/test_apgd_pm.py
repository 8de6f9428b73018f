from __future__ import annotations

from collections.abc import Callable

import pytest

from robustbench_cli.attacks.apgd_pm import APGDPM
from robustbench_cli.attacks.base.norm import Norm

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """On a linear model with two classes, every image is right below its distance to the other, and wrong above."""
    linear_victim(2).assert_falls_beyond_the_boundary(APGDPM(), norm, 1.001)

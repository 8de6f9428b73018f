from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.core.errors import UserError

from .conftest import LinearVictim


@pytest.mark.parametrize(("norm", "excess"), [("l2", 1.03), ("linf", 1.06)])
def test_hopskipjump_finds_the_nearest_image(
    norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """On a linear model its median distance is the closed form's, but for a few per cent."""
    assert 1 <= linear_victim(2).median_ratio(HopSkipJump(queries=3000), norm) < excess


def test_hopskipjump_says_that_it_has_nowhere_to_start(linear_victim: Callable[..., LinearVictim]) -> None:
    """A class that the model never predicts cannot be begun at: a line names it."""
    victim = linear_victim(3)
    never = nn.Sequential(victim.model, nn.ConstantPad1d((0, 1), -1e9))
    with pytest.raises(UserError, match="no starting point for class 3"):
        HopSkipJump()(never, victim.images[:4], torch.full((4,), 3), targeted=True)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.core.errors import UserError

from .conftest import LinearVictim


@pytest.mark.parametrize(("norm", "excess"), [("l2", 1.03), ("linf", 1.06)])
def test_hopskipjump_finds_the_nearest_image(
    norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """On a linear model its median distance is the closed form's, but for a few per cent."""
    assert 1 <= linear_victim(2).median_ratio(HopSkipJump(queries=3000), norm) < excess


@pytest.mark.parametrize(("norm", "excess"), [("l2", 1.05), ("linf", 1.12)])
def test_the_authors_defaults_find_it_too(norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]) -> None:
    """With their precision of the boundary and their sample points."""
    attack = HopSkipJump(queries=3000, gamma=1, initial_samples=100)
    assert 1 <= linear_victim(2).median_ratio(attack, norm) < excess


def test_the_precision_costs_queries(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of 36 pixels in l2, gamma 1 is a share of 1 / 216 and takes 8 halvings; a thousandth of it takes 10 more."""
    victim = linear_victim(2)
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    counts = {}
    for gamma in (1, 1e-3):
        source = EOT(victim.model.requires_grad_(False))
        attack = HopSkipJump(queries=60, gamma=gamma, initial_samples=1000)
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        counts[gamma] = source.forwards / 24
    assert counts[1e-3] - counts[1] == 10


def test_hopskipjump_says_that_it_has_nowhere_to_start(linear_victim: Callable[..., LinearVictim]) -> None:
    """A class that the model never predicts cannot be begun at: a line names it."""
    victim = linear_victim(3)
    never = nn.Sequential(victim.model, nn.ConstantPad1d((0, 1), -1e9))
    with pytest.raises(UserError, match="no starting point for class 3"):
        HopSkipJump()(never, victim.images[:4], torch.full((4,), 3), targeted=True)

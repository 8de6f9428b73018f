from __future__ import annotations

from collections.abc import Callable

import torch

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.ddn import DDN

from .conftest import LinearVictim, Victim


def test_a_step_costs_one_gradient(linear_victim: Callable[..., LinearVictim]) -> None:
    """Every step takes one gradient of every image."""
    victim = linear_victim(3)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    DDN(steps=7).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert source.backwards == 24 * 7


def test_a_large_gamma_is_coarse(digits_victim: Victim) -> None:
    """The norm changes by the factor ``1 - gamma``, so that a large gamma ends farther from the boundary."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    fine, coarse = (
        distance(DDN(steps=50, gamma=gamma)(model, images, labels, norm="l2"), images, "l2").mean()
        for gamma in (0.05, 0.8)
    )
    assert fine < coarse

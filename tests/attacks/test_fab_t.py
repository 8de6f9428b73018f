from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fab import FAB
from robustbench_cli.attacks.fab_t import FABT

from .conftest import Linear, LinearVictim, NoiseLayer


def test_every_target_costs_one_gradient_a_step(linear_victim: Callable[..., LinearVictim]) -> None:
    """FAB takes a gradient for every class at each step; FAB-T takes one for each target."""
    victim = linear_victim(6)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    attack = FABT(steps=3, n_target_classes=2)
    attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert source.backwards == 24 * 2 * 3


def test_towards_a_target_it_is_fab(linear_victim: Callable[..., LinearVictim]) -> None:
    """Where the threat has a target, there is no other to try: bit by bit FAB's images."""
    victim = linear_victim(3)
    targets = victim.nearest("l2")
    perturbed = [
        attack(victim.model, victim.images, targets, norm="l2", targeted=True)
        for attack in (FAB(steps=5), FABT(steps=5))
    ]
    assert torch.equal(*perturbed)


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("restarts", [1, 2])
def test_targets_in_one_batch_give_what_they_give_in_turn(
    randomized: bool, restarts: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Bit by bit, also of a randomized model, whose draws belong to the images and their targets."""
    victim = linear_victim(6)
    assert isinstance(victim.model, Linear)
    model = NoiseLayer(victim.model, 0.01) if randomized else victim.model
    attack = FABT(steps=8, n_target_classes=5, restarts=restarts)
    together, pairs, in_turn = (
        attack(model, victim.images, victim.labels, norm="l2", eot=1, batch_size=rows) for rows in (None, 48, 24)
    )
    assert torch.equal(together, pairs)
    assert torch.equal(together, in_turn)
    assert victim.accuracy(together) < 0.2


def test_it_is_the_nearest_of_the_runs_towards_each_target(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model every run ends at the closed-form distance to its target, so the best ends at the nearest class."""
    victim = linear_victim(6)
    perturbed = FABT(steps=20, n_target_classes=5)(victim.model, victim.images, victim.labels, norm="l2")
    length = (perturbed - victim.images).flatten(1).norm(dim=1)
    torch.testing.assert_close(length, victim.radii("l2"), rtol=0.01, atol=0)

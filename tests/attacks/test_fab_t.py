from __future__ import annotations

from collections.abc import Callable

import torch

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fab import FAB
from robustbench_cli.attacks.fab_t import FABT

from .conftest import LinearVictim


def test_every_target_costs_one_gradient_a_step(linear_victim: Callable[..., LinearVictim]) -> None:
    """FAB takes a gradient for every class at each step; FAB-T takes one, for one target after another."""
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

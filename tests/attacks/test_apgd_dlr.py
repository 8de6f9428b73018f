from __future__ import annotations

from collections.abc import Callable

import torch

from robustbench_cli.attacks.apgd_dlr import APGDDLR
from robustbench_cli.attacks.base.losses import dlr, targeted_dlr
from robustbench_cli.attacks.base.threat import Threat

from .conftest import LinearVictim


def test_its_loss_is_the_dlr_or_towards_a_target_the_targeted_one() -> None:
    """Which of the two losses it climbs follows from the threat, and so does the number of classes that it needs."""
    eps = torch.ones(1, dtype=torch.float64)
    attack = APGDDLR()
    assert attack.loss(Threat(norm="linf", eps=eps)) is dlr
    assert attack.loss(Threat(norm="linf", eps=eps, targeted=True)) is targeted_dlr
    assert (attack.min_classes(targeted=False), attack.min_classes(targeted=True)) == (3, 4)


def test_a_shift_of_the_logits_changes_nothing(linear_victim: Callable[..., LinearVictim]) -> None:
    """The ratio is invariant, so that the perturbed images are the same up to rounding."""
    plain, shifted = linear_victim(5), linear_victim(5, shift=8.0)
    radii = plain.radii("linf")
    first, second = (
        APGDDLR(steps=10)(victim.model, victim.images, victim.labels, eps=radii) for victim in (plain, shifted)
    )
    assert (first - second).abs().amax((1, 2, 3)).median() < 1e-5

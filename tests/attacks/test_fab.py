from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fab import FAB

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_two_steps_solve_a_linear_model(norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """A linear boundary is its own linearization: the first step crosses it at the closed-form distance, with overshoot."""
    victim = linear_victim(2)
    perturbed = FAB(steps=2)(victim.model, victim.images, victim.labels, norm=norm)
    assert victim.accuracy(perturbed) == 0
    torch.testing.assert_close(distance(perturbed, victim.images, norm).float(), victim.radii(norm), rtol=5e-3, atol=0)


def test_a_restart_never_loses_what_is_found(digits_victim: Victim) -> None:
    """With restarts no perturbation is larger, and some are smaller."""
    model, images, labels = digits_victim.model, digits_victim.images[:20], digits_victim.labels[:20]
    once, thrice = (
        distance(FAB(steps=4, restarts=restarts)(model, images, labels, norm="l1"), images, "l1") for restarts in (1, 3)
    )
    assert (thrice <= once).all()
    assert (thrice < once).any()

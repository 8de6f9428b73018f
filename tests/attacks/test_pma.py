from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.pma import PMA

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """On a linear model with two classes, every image is right below its distance to the other, and wrong above."""
    linear_victim(2).assert_falls_beyond_the_boundary(PMA(), norm, 1.001)


def test_saturated_probabilities_hide_nothing(linear_victim: Callable[..., LinearVictim]) -> None:
    """Logits a million times as large round p_y to 1; the attack follows the slope of the logarithm."""
    victim = linear_victim(2)

    class Saturated(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = 1e6 * victim.model(images)
            return logits

    eps = 1.01 * victim.radii("linf")
    perturbed = PMA()(Saturated(), victim.images, victim.labels, norm="linf", eps=eps)
    assert victim.accuracy(perturbed) == 0


def test_with_few_steps_it_leaves_no_more_than_the_other_losses(digits_victim: Victim) -> None:
    """On a small CNN, with ten steps."""

    def accuracy(attack: PGD) -> float:
        perturbed = attack(digits_victim.model, digits_victim.images, digits_victim.labels, norm="linf", eps=0.08)
        return digits_victim.accuracy(perturbed)

    assert 0 < accuracy(PMA(steps=10)) <= min(accuracy(PGD(steps=10)), accuracy(CWPGD(steps=10))) + 0.02

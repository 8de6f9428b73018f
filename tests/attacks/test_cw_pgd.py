from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Of a linear model with two classes every image is right below its distance to the other, and wrong above."""
    victim = linear_victim(2)
    for factor, accuracy in ((0.999, 1), (1.001, 0)):
        eps = factor * victim.radii(norm)
        assert victim.accuracy(CWPGD()(victim.model, victim.images, victim.labels, norm=norm, eps=eps)) == accuracy


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [3, 6])
def test_the_nearest_class_is_reached_just_beyond_the_closed_form_distance(
    norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """The lead of a target over all others is concave on a linear model: its largest value is found, and not sooner."""
    victim = linear_victim(classes)
    targets = victim.nearest(norm)
    for factor, reached in ((0.999, 0), (1.01, 1)):
        eps = factor * victim.radii(norm)
        perturbed = CWPGD()(victim.model, victim.images, targets, norm=norm, eps=eps, targeted=True)
        assert (victim.model(perturbed).argmax(1) == targets).double().mean() == reached


class Saturated(nn.Module):
    """A model whose logits are too large for a softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * 1e5


def test_a_saturated_softmax_does_not_stop_it(linear_victim: Callable[..., LinearVictim]) -> None:
    """Where the cross-entropy's gradient underflows and PGD stands still, the margin's still shows the way."""
    victim = linear_victim(2)
    eps = 1.01 * victim.radii("linf")
    still = PGD(random_start=False)(Saturated(victim.model), victim.images, victim.labels, eps=eps)
    assert victim.accuracy(still) > 0.9
    moved = CWPGD(random_start=False)(Saturated(victim.model), victim.images, victim.labels, eps=eps)
    assert victim.accuracy(moved) == 0
    assert torch.equal(moved, CWPGD(random_start=False)(victim.model, victim.images, victim.labels, eps=eps))

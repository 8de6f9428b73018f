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


class ThreeDraws(nn.Module):
    """Two classes and three draws, of margins ``100 + 30 t``, ``0.5 - 5 t`` and ``0.5 - 5 t``, t being the only pixel's lead."""

    number_of_draws = 3
    cost_of_all_draws = 3.0

    def all_draws(self, images: Tensor) -> Tensor:
        """All of them."""
        lead = images.flatten(1).mean(1) - 0.5
        margins = torch.stack([100 + 30 * lead, 0.5 - 5 * lead, 0.5 - 5 * lead])
        return torch.stack([margins, torch.zeros_like(margins)], 2)

    def forward(self, images: Tensor) -> Tensor:
        """One for each row."""
        drawn = torch.randint(3, (len(images),))
        return self.all_draws(images)[drawn, torch.arange(len(images))]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_draws_that_can_be_turned_decide_the_way(norm: Norm) -> None:
    """The mean margin falls towards darkness, where all three draws resist; brightness fools two, as enumeration says."""
    model, images = ThreeDraws(), torch.full((1, 1, 1, 1), 0.5)
    shares = [(model.all_draws(images + t).argmax(2) == 0).double().mean() for t in torch.linspace(-0.4, 0.4, 9)]
    attack = CWPGD(random_start=False)
    perturbed = attack(model, images, torch.tensor([0]), norm=norm, eps=0.4, eot="exact")
    assert (model.all_draws(perturbed).argmax(2) == 0).double().mean() == min(shares)

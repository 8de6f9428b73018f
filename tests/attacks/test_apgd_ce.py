from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.apgd_ce import APGDCE
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.pgd import PGD

from .conftest import LinearVictim, Victim

NORMS: list[Norm] = ["linf", "l2", "l1"]


class Valley(nn.Module):
    """Class 0 by a lead that is least, and still there, at one point, and curved a hundred times more along one axis."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.point = point
        self.curves = torch.logspace(0, 2, point.numel())

    def forward(self, images: Tensor) -> Tensor:
        lead = 0.01 + ((images - self.point).flatten(1).square() * self.curves).sum(1)
        return torch.stack([lead, torch.zeros_like(lead), torch.full_like(lead, -1.0)], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_size_shrinks_where_steps_overshoot(norm: Norm) -> None:
    """The lowest point of a valley inside the ball is found, from any start, where steps of one length jump to and fro."""
    images, labels = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    point = torch.tensor([[[0.55, 0.45], [0.52, 0.47]]])
    model = Valley(point)

    def excess(attack: APGD | PGD) -> float:
        perturbed = attack(model, images, labels, norm=norm, eps=0.2)
        return (model(perturbed)[:, 0] - 0.01).max().item()

    constant = excess(PGD(steps=100, step_size=0.1))
    assert excess(APGDCE()) < 0.05 * constant


def test_steps_in_l1_change_few_pixels(digits_victim: Victim) -> None:
    """In l1 the perturbations are sparse, and use the whole radius."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    perturbed = APGDCE()(model, images, labels, norm="l1", eps=0.5)
    assert ((perturbed != images).flatten(1).sum(1) < 20).all()
    torch.testing.assert_close(
        distance(perturbed, images, "l1").median(), torch.tensor(0.5, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_a_few_steps_stay_within_the_closed_form_distance(
    steps: int, norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Of a linear model with two classes no image falls below its distance, and no number of steps is too small to run."""
    victim = linear_victim(2)
    eps = 0.999 * victim.radii(norm)
    perturbed = APGDCE(steps=steps)(victim.model, victim.images, victim.labels, norm=norm, eps=eps)
    assert victim.accuracy(perturbed) == 1

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.apgd_ce import APGDCE
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.ddn import DDN
from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate

SHORT = PGD(steps=10, step_size=2 / 255, random_start=False)
OF_A_LIBRARY = registry.load("torchattacks:PGD")(steps=10, alpha=2 / 255)


class Firm(nn.Module):
    """A network that is always sure of class 0 by far, and gives gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return 0.01 * self.network(images) + 5 * nn.functional.one_hot(torch.zeros(len(images)).long(), 10)


@pytest.mark.parametrize(
    ("attack", "norm", "eps", "raised"),
    [
        # Ten steps of 2/255 move a pixel by at most 20/255 = 0.078.
        (SHORT, "linf", 0.1, True),
        (SHORT, "linf", 0.078, False),
        (PGD(steps=10, step_size=2 / 255), "linf", 0.1, True),
        (PGD(steps=10, step_size=2 / 255), "linf", 0.078, False),
        (OF_A_LIBRARY, "linf", 0.1, True),
        (OF_A_LIBRARY, "linf", 0.078, False),
        # Less than a level of 255 all together.
        (PGD(steps=3, step_size=0.001, random_start=False), "linf", 0.1, True),
        (SHORT, "linf", 0.0, False),
        (SHORT, "l2", 1.0, True),
        (SHORT, "l2", 0.1, True),
        (SHORT, "l2", 0.08, False),
        (PGD(steps=5), "linf", 0.1, False),
        (PGD(steps=5), "linf", 2 / 255, False),
        (PGD(steps=5), "l2", 2.0, False),
        (FGSM(), "linf", 0.1, False),
        (APGDCE(steps=5), "linf", 0.1, False),
        (APGDCE(steps=5), "l2", 2.0, False),
        (Square(queries=20), "linf", 0.1, False),
        (DDN(steps=3), "l2", 2.0, False),
    ],
)
def test_steps_that_are_too_short_for_the_radius_are_flagged(
    network: nn.Module, images: Tensor, attack: Attack, norm: str, eps: float, raised: bool
) -> None:
    """By how far the steps can go together, on a model that nothing breaks."""
    found = evaluate(Firm(network), images, torch.zeros(8).long(), attack=attack, norm=norm, eps=eps)
    assert found.summary["robust_accuracy"] == 1
    assert ("cannot-reach" in found.flags) == raised


def test_an_attack_that_stops_on_broken_images_is_not_flagged(network: nn.Module, images: Tensor) -> None:
    """Every image falls after a step or two of many."""
    found = evaluate(network, images, network(images).argmax(1), attack=PGD(steps=40), eps=0.3)
    assert found.summary["robust_accuracy"] == 0
    assert "cannot-reach" not in found.flags


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize(("share", "raised"), [(0.6, True), (0.85, True), (0.95, False)])
def test_a_random_start_does_not_hide_short_steps(norm: Norm, share: float, raised: bool) -> None:
    """On a linear model, steps of a length ``share`` of eps gain at most this share of what the ball allows, ``eps * |w|_*``.

    The random start is near the surface from the first step on, and adds a change of the order of ``eps |w| / sqrt(d)`` in any
    direction.
    """
    eps, steps = 0.5, 5
    images, labels = torch.full((8, 1, 16, 16), 0.5), torch.zeros(8).long()
    linear = nn.Linear(256, 2)
    signs = torch.sign(torch.randn(256, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        linear.weight.copy_(torch.stack([signs, -signs]))
        linear.bias.copy_(torch.tensor([12.0, -12.0]) - linear.weight.sum(1) / 2)
    model = nn.Sequential(nn.Flatten(), linear)
    attack = PGD(steps=steps, step_size=share * eps / steps)
    found = evaluate(model, images, labels, attack=attack, norm=norm, eps=eps)
    clean, perturbed = (model(batch)[:, 0] for batch in (images, found.perturbed))
    gained = (clean - perturbed) / (eps * (16 if norm == "l2" else 1))
    assert found.summary["robust_accuracy"] == 1
    assert gained.max() <= share + 3 / 16
    assert gained.min() > 0.5 * share
    assert ("cannot-reach" in found.flags) == raised

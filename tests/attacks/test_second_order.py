from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.gradients.hessian import HessianProducts
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.krylov import krylov_step
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.second_order import SecondOrder
from robustbench_cli.core.errors import UserError

from .conftest import Victim


@pytest.fixture(scope="module")
def smooth() -> Victim:
    """A Softplus network trained on the digits, and 200 test images, right or wrong."""
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(targets)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.Softplus(), nn.Linear(48, 32), nn.Softplus(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(8):
        for rows in torch.randperm(1297).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return Victim(model.eval().requires_grad_(False), images[1297:1497], labels[1297:1497])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_in_one_dimension_is_fgsm(norm: Norm, digits_victim: Victim, *, targeted: bool) -> None:
    """The same images, up to rounding, wherever the step is better than the image itself."""
    victim = digits_victim
    goals = (victim.labels + 1) % 10 if targeted else victim.labels
    attacks = SecondOrder(steps=1, dimension=1), FGSM()
    found, expected = (
        attack(victim.model, victim.images, goals, norm=norm, eps=0.1, targeted=targeted) for attack in attacks
    )
    moved = (found != victim.images).flatten(1).any(1)
    assert moved.sum() > 50
    torch.testing.assert_close(found[moved], expected[moved])


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.25), ("l2", 0.5), ("l2", 1.0), ("linf", 0.05), ("linf", 0.1)])
def test_curvature_raises_the_loss(norm: Norm, eps: float, smooth: Victim) -> None:
    """At equal norm, the mean cross-entropy of a Softplus network is above that of FGM, and in l2 that of most images is."""
    source = EOT(smooth.model)
    _, gradient = source.gradient(smooth.images, smooth.labels, cross_entropy)
    product = HessianProducts(source, smooth.images, smooth.labels, cross_entropy)

    def losses(dimension: int) -> Tensor:
        step = krylov_step(gradient, product, dimension=dimension, norm=norm, sizes=torch.full((200,), eps))
        return F.cross_entropy(smooth.model(smooth.images + step), smooth.labels, reduction="none")

    first, second = losses(1), losses(3)
    assert second.mean() > 1.01 * first.mean()
    if norm == "l2":
        assert (second > first).double().mean() > 0.75


def test_passes_are_counted(digits_victim: Victim) -> None:
    """A step has a gradient, its graph, and a product per dimension, each forward and back; the last iterate is evaluated."""
    source = EOT(digits_victim.model)
    threat = Threat(norm="l2", eps=torch.full((60,), 1e-6))
    images = digits_victim.images
    SecondOrder(steps=2, dimension=4).run(source, images, digits_victim.labels, threat, Random.of(0, images))
    assert (source.forwards, source.backwards) == (60 * (2 * 6 + 1), 60 * 2 * 6)


def test_a_product_goes_through_the_exact_expectation(digits_victim: Victim) -> None:
    """Over two equally likely copies of a network, the attack is the one on the network."""

    class Twins(nn.Module):
        number_of_draws = 2
        cost_of_all_draws = 2.0

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return self.all_draws(images)[torch.randint(2, (len(images),)), torch.arange(len(images))]

        def all_draws(self, images: Tensor) -> Tensor:
            logits = self.model(images)
            return torch.stack([logits, logits + 1e-3 * torch.arange(10)])

    model, images, labels = copy.deepcopy(digits_victim.model), digits_victim.images[:20], digits_victim.labels[:20]
    attack = SecondOrder(steps=1)
    alone = attack(model, images, labels, norm="l2", eps=0.5)
    torch.testing.assert_close(
        attack(Twins(model), images, labels, norm="l2", eps=0.5, eot="exact"), alone, rtol=0, atol=1e-2
    )


def test_a_dimension_above_the_images(digits_victim: Victim) -> None:
    """It is an error in one line, before any pass."""
    with pytest.raises(UserError, match=r"^dimension is 65: an image has 64 numbers"):
        SecondOrder(dimension=65)(digits_victim.model, digits_victim.images, digits_victim.labels, eps=0.1)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.trades import TRADES


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_the_loss_and_its_gradient(normed: Callable[[], nn.Module], beta: float) -> None:
    """They equal those of torch's cross_entropy and kl_div, with a gradient through both distributions."""
    network = normed().eval()
    images, perturbed = torch.rand(2, 20, 1, 8, 8)
    labels = torch.randint(10, (20,))
    parameters = list(network.parameters())
    value = TRADES(beta=beta).batch_loss(network, images, perturbed, labels)
    clean, attacked = network(images), network(perturbed)
    divergence = functional.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    expected = functional.cross_entropy(clean, labels) + beta * divergence
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_attack_climbs_the_divergence() -> None:
    """On a linear model of two classes the attack ends in one of the two corners farthest along the weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = 0.4 + 0.2 * torch.rand(50, 1, 4, 4)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 4, 4)
    perturbed = TRADES(eps=0.1).perturb(model, images, torch.zeros(50, dtype=torch.int64))
    direction = (perturbed - images) * weight.sign()
    torch.testing.assert_close(direction.abs(), torch.full_like(direction, 0.1))
    assert (direction.flatten(1).sign() == direction.flatten(1)[:, :1].sign()).all()


def test_labels_have_no_part_in_the_attack(normed: Callable[[], nn.Module]) -> None:
    """Other labels give the same images."""
    network, images = normed(), torch.rand(10, 1, 8, 8)

    def made(labels: Tensor) -> Tensor:
        torch.manual_seed(0)
        return TRADES().perturb(network, images, labels)

    assert torch.equal(made(torch.zeros(10, dtype=torch.int64)), made(torch.arange(10)))


def test_beta_trades(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """A larger beta gives a higher accuracy under PGD and a lower clean accuracy."""
    train, test = digits
    start, clean, left = network().state_dict(), [], []
    for beta in (0.1, 30):
        defense = TRADES(eps=0.15, steps=2, beta=beta)
        model = network()
        model.load_state_dict(start)
        defense.fit(model, Trainer(train, Recipe(epochs=9, lr=0.01), seed=0, device=torch.device("cpu")))
        perturbed = PGD(steps=10)(model, test.images[:250], test.labels[:250], eps=0.15)
        clean.append(accuracy(model, test))
        left.append(accuracy(model, type(test)(perturbed, test.labels[:250])))
    assert clean[0] > clean[1]
    assert left[1] > left[0] + 0.1

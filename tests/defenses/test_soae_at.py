from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.second_order import SecondOrder
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.soae_at import SOAEAT

from ..once_differentiable import Squares


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_images_are_those_of_the_attack(normed: Callable[[], nn.Module], norm: Norm) -> None:
    """At a tiny radius no image falls, so the attack returns its only step, and the network is left as it is."""
    network, images = normed().train(), 0.3 + 0.4 * torch.rand(20, 1, 8, 8)
    with frozen(network), torch.no_grad():
        labels = network(images).argmax(1)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    found = SOAEAT(eps=1e-4, norm=norm).perturb(network, images, labels)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert network.training
    with frozen(network):
        threat = Threat(norm=norm, eps=torch.full((20,), 1e-4))
        attack = SecondOrder(steps=1)
        expected = attack.run(EOT(network), images, labels, threat, Random.of(0, images))
    moved = (expected != images).flatten(1).any(1)
    assert moved.sum() > 15
    torch.testing.assert_close(found[moved], expected[moved], rtol=0, atol=2e-6)


def test_a_norm_without_steps() -> None:
    """It is an error in one line."""
    with pytest.raises(UserError, match="second-order steps are in linf or l2"):
        SOAEAT.from_parameters({"norm": "l1"}, name="soae-at")


@pytest.mark.parametrize(
    ("layer", "dimension", "message"),
    [
        (Squares(), 3, r"layer '2' \(Squares\) has no second derivative"),
        (nn.Tanh(), 65, "dimension is 65: an image has 64"),
    ],
)
def test_what_cannot_be_trained_fails_at_once(digits: Any, layer: nn.Module, dimension: int, message: str) -> None:
    """A layer without a second derivative, or too large a subspace: one line before the first epoch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), layer)
    trainer = Trainer(digits[0], Recipe(epochs=1), seed=0, device=torch.device("cpu"))
    with pytest.raises(UserError, match=message):
        SOAEAT(dimension=dimension).fit(model, trainer)


class _Round(nn.Module):
    """A layer whose slope is 0."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.round()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_network_that_rounds_its_input(mode: str) -> None:
    """Its gradient is 0 everywhere, and a step along it stays where it is."""
    network, images = nn.Sequential(_Round(), nn.Flatten(), nn.Linear(64, 3)).train(), torch.rand(5, 1, 8, 8)
    defense = SOAEAT.from_parameters({"eps": 0.1, "attack_mode": mode}, name="soae-at")
    assert torch.equal(defense.perturb(network, images, torch.arange(5) % 3), images)

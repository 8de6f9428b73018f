from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.awp import AWP
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.mart import MART
from robustbench_cli.defenses.pgd_at import PGDAT
from robustbench_cli.defenses.trades import TRADES


def seeded(value: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return value()


@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
def test_a_step_done_in_place(normed: Callable[[], nn.Module], objective: str) -> None:
    """The gradient equals that of a copy whose weights are perturbed in place and restored afterwards."""
    network = normed().train()
    network[6].p = 0.0
    images, labels = torch.rand(30, 1, 8, 8), torch.randint(10, (30,))
    defense = AWP.from_parameters({"objective": objective, "gamma": 0.02, "steps": 3}, name="awp")
    inner = (TRADES if objective == "trades" else PGDAT)(steps=3)
    before = copy.deepcopy(network)

    proxy = copy.deepcopy(network)
    perturbed = seeded(lambda: inner.perturb(proxy, images, labels))
    start = [parameter.detach().clone() for parameter in proxy.parameters()]
    statistics = proxy[1].running_mean.clone()
    inner.batch_loss(proxy, images, perturbed, labels).backward()
    proxy[1].running_mean.copy_(statistics)
    with torch.no_grad():
        for parameter in proxy.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.02 * parameter.norm() * parameter.grad / parameter.grad.norm())
    assert max((now - then).abs().max() for now, then in zip(proxy.parameters(), start, strict=True)) > 0
    expected = torch.autograd.grad(inner.batch_loss(proxy, images, perturbed, labels), list(proxy.parameters()))

    value = seeded(lambda: defense.loss(network, images, labels))
    gradients = torch.autograd.grad(value, list(network.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for now, then in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then)
    torch.testing.assert_close(network[1].running_mean, proxy[1].running_mean)


def test_the_size_of_the_weight_perturbation(normed: Callable[[], nn.Module]) -> None:
    """Each weight moves by gamma times its norm, biases and scales do not move, and the loss increases."""
    network = normed().eval()
    images, labels = torch.rand(30, 1, 8, 8), torch.randint(10, (30,))
    defense = AWP(gamma=0.01)
    moved = defense.perturbed_weights(network, images, images, labels)
    own = dict(network.named_parameters())
    assert set(moved) == {f"{layer}.weight" for layer in (0, 3, 7, 9)}
    for name, tensor in moved.items():
        torch.testing.assert_close((tensor - own[name]).norm(), 0.01 * own[name].norm(), rtol=1e-4, atol=1e-6)
    at_perturbed = torch.func.functional_call(network, moved, (images,))
    assert functional.cross_entropy(at_perturbed, labels) > functional.cross_entropy(network(images), labels)


def _dead() -> nn.Module:
    """A network whose first layer gets no gradient, with weights of a norm above 4."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        model[1].weight.mul_(10)
        model[1].bias.fill_(-1e6)
    return model


def _transformer() -> nn.Module:
    """Its head is initialized with zeros, so no other layer gets a gradient in the first step."""
    return torchvision.models.VisionTransformer(
        8, 4, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )


@pytest.mark.parametrize(
    ("build", "shape"), [(_dead, (1, 8, 8)), (_transformer, (3, 8, 8))], ids=["dead layer", "transformer"]
)
@pytest.mark.parametrize("objective", ["pgd-at", "trades", "mart"])
def test_a_layer_without_a_gradient_stays(
    build: Callable[[], nn.Module], shape: tuple[int, ...], objective: str
) -> None:
    """Weights with a zero gradient do not move, and the loss and its gradients are finite."""
    network, images, labels = build().train(), torch.rand(6, *shape), torch.arange(6)
    defense = AWP.from_parameters({"objective": objective, "steps": 1}, name="awp")
    moved = defense.perturbed_weights(network, images, images, labels)
    assert all(tensor.isfinite().all() for tensor in moved.values())
    own, still = dict(network.named_parameters()), 0
    loss = defense.batch_loss(network, images, images, labels)
    for name, gradient in zip(moved, torch.autograd.grad(loss, [own[name] for name in moved]), strict=True):
        if not gradient.any():
            assert torch.equal(moved[name], own[name])
            still += own[name].norm() > 4
    assert still
    value = defense.loss(network, images, labels)
    assert value.isfinite()
    assert all(each.isfinite().all() for each in torch.autograd.grad(value, list(network.parameters())))


@pytest.mark.parametrize(
    ("fields", "inner"),
    [
        ({}, PGDAT(steps=4, eps=0.3)),
        ({"objective": "trades"}, TRADES(steps=4, eps=0.3)),
        ({"objective": "mart", "beta": 2}, MART(steps=4, eps=0.3, beta=2)),
    ],
)
def test_the_inner_training(fields: dict[str, Any], inner: object) -> None:
    """The other training has the parameters of this one's attack, and its own beta unless one is set."""
    assert AWP.from_parameters({"steps": 4, "eps": 0.3, **fields}, name="awp").inner == inner


def test_the_warm_up(digits: Any, network: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are perturbed from the first step after that fraction on, also where it is a whole number of steps."""
    train, _ = digits
    trainer = Trainer(train, Recipe(epochs=4, batch_size=500), seed=0, device=torch.device("cpu"))
    done: list[float] = []
    original = AWP.perturbed_weights

    def recording(self: AWP, *arguments: Any) -> Any:
        done.append(trainer.fraction_done)
        return original(self, *arguments)

    monkeypatch.setattr(AWP, "perturbed_weights", recording)
    AWP(warmup=0.25, steps=1).fit(network(), trainer)
    assert done == [step / 12 for step in range(3, 12)]


@pytest.mark.parametrize(("objective", "gamma"), [("pgd-at", 0.01), ("trades", 0.005), ("mart", 0.01)])
def test_the_default_size_is_the_papers(objective: str, gamma: float) -> None:
    """It is 0.005 with trades and 0.01 with the others, and the user's size has priority."""
    assert AWP.from_parameters({"objective": objective}, name="awp").gamma == gamma
    assert AWP.from_parameters({"objective": objective, "gamma": 0.02}, name="awp").gamma == 0.02

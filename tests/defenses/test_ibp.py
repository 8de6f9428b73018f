from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.interval_bounds import worst_logits
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.ibp import IBP


def trained(defense: IBP, train: Any, network: Callable[[], nn.Module], **recipe: Any) -> nn.Module:
    torch.manual_seed(0)
    model = defense.protect(network(), torch.rand(1, 1, 8, 8))
    defense.fit(model, Trainer(train, Recipe(**recipe), seed=0, device=torch.device("cpu")))
    return model


def certified(model: nn.Module, examples: Any, eps: float) -> float:
    """The fraction of examples that are certified at the radius."""
    with torch.no_grad():
        worst = worst_logits(model, examples.images, examples.labels, eps)
    return (worst.argmax(1) == examples.labels).double().mean().item()


def test_what_is_trained_for_is_certified(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """At the training radius most correct digits are certified; for a plain network none is."""
    train, test = digits
    bounded = trained(IBP(eps=0.03), train, network, epochs=10, batch_size=32)
    plain = trained(IBP(eps=0.03, warm_up=1), train, network, epochs=4)
    assert accuracy(plain, test) > 0.8
    assert accuracy(bounded, test) > 0.8
    assert certified(bounded, test, 0.03) > 0.5
    assert certified(plain, test, 0.03) < 0.05


def test_the_loss_of_a_step(digits: Any) -> None:
    """At full radius, a step of SGD follows the gradient of the paper's loss by autograd."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    start = nn.Linear(64, 10)
    start.load_state_dict(model[1].state_dict())
    defense = IBP(eps=0.1, kappa=0.3, warm_up=0, ramp=0)
    recipe = Recipe(
        epochs=1, batch_size=len(train), optimizer="sgd", lr=0.1, momentum=1e-9, weight_decay=0, schedule="constant"
    )
    defense.fit(model, Trainer(train, recipe, seed=0, device=torch.device("cpu")))
    low, high = (train.images - 0.1).clamp(0, 1).flatten(1), (train.images + 0.1).clamp(0, 1).flatten(1)
    weight, labels = start.weight, train.labels
    differences = weight - weight[labels].unsqueeze(1)
    # The worst case of a linear model, pixel by pixel.
    pixels = torch.where(differences > 0, high.unsqueeze(1), low.unsqueeze(1))
    worst = (differences * pixels).sum(2) + start.bias - start.bias[labels].unsqueeze(1)
    clean = functional.cross_entropy(start(train.images.flatten(1)), labels)
    loss = 0.3 * clean + 0.7 * functional.cross_entropy(worst, labels)
    (slope,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(model[1].weight, weight - 0.1 * slope, rtol=1e-4, atol=1e-6)


def test_the_radius_rises_along_a_line() -> None:
    """The radius is 0, rises linearly, then stays constant; without a ramp it is constant."""
    fractions = [IBP(warm_up=0.2, ramp=0.5).ramp_fraction(done) for done in (0.0, 0.19, 0.2, 0.45, 0.7, 0.99)]
    assert fractions == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert IBP(warm_up=0, ramp=0).ramp_fraction(0.0) == 1


def test_a_loss_sees_how_far_the_training_is(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """``fraction_done`` rises from 0 to 1 minus one step, in equal steps."""
    train, _ = digits
    trainer, recorded = Trainer(train, Recipe(epochs=2, batch_size=300), seed=0, device=torch.device("cpu")), []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        recorded.append(trainer.fraction_done)
        return functional.cross_entropy(network(images), labels)

    trainer.fit(normed(), name="training", loss=loss)
    assert recorded == pytest.approx([step / len(recorded) for step in range(len(recorded))])


def test_a_model_that_cannot_be_bounded() -> None:
    """It is a usage error before any training."""
    with pytest.raises(UserError, match="cannot be bounded by intervals: its layer 1 is a GELU"):
        IBP().protect(nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(64, 10)), torch.rand(1, 1, 8, 8))

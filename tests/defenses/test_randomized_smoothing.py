from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.macer import MACER
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pni import PNI
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier
from robustbench_cli.defenses.smoothadv import SmoothAdv


def test_the_model_sees_noise() -> None:
    """The model's input is the image plus normal noise (Kolmogorov-Smirnov, level 0.001), without clipping."""
    images = torch.rand(50, 3, 8, 8)
    inputs = RandomizedSmoothing(sigma=0.4, decision="one-draw").protect(nn.Identity(), images[:1]).eval()(images)
    assert stats.kstest((inputs - images).flatten().numpy(), "norm", args=(0, 0.4)).pvalue > 0.001
    assert inputs.min() < 0
    assert inputs.max() > 1


def test_the_vote_decides() -> None:
    """If a model is right, with high confidence, in a tenth of the draws, the vote is wrong and the mean is right."""

    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            high = images[:, 0, 0, :1] > stats.norm.ppf(0.9)
            return torch.where(high, torch.tensor([50.0, 0.0]), torch.tensor([0.0, 0.1]))

    images = torch.zeros(200, 1, 1, 1)
    decided = {
        rule: RandomizedSmoothing(sigma=1, draws=100, decision=rule).protect(Sure(), images[:1])(images).argmax(1)
        for rule in ("vote", "mean")
    }
    # 50 of 100 draws at a chance of 0.1 have a probability below 1e-20; the mean is 0.1 + 0.9 * 0.475 against 0.9 *
    # 0.525.
    assert (decided["vote"] == 1).all()
    assert (decided["mean"] == 0).double().mean() > 0.5
    assert RandomizedSmoothing().decision == "vote"


@pytest.mark.parametrize("decision", ["vote", "one-draw", "deterministic"])
def test_the_classifier_that_is_smoothed(decision: Any, network: Callable[[], nn.Module]) -> None:
    """The base classifier has the model's logits exactly. A model with another defense is returned unchanged."""
    model, images = network().eval(), torch.rand(5, 1, 8, 8)
    smoothed = RandomizedSmoothing(decision=decision).protect(model, images[:1]).eval()
    assert torch.equal(base_classifier(smoothed)(images), model(images))
    other = PNI().protect(model, images[:1])
    assert base_classifier(other) is other


def test_trained_with_noise_it_is_right_under_noise(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """Under strong noise, training with noise gives a higher accuracy than standard training."""
    train, test = digits
    result = []
    for defense in (RandomizedSmoothing(sigma=1, decision="one-draw"), Undefended()):
        defended = defense.protect(network(), train.images[:1])
        defense.fit(defended, Trainer(train, Recipe(epochs=12), seed=0, device=torch.device("cpu")))
        voting = RandomizedSmoothing(sigma=1, draws=10).protect(base_classifier(defended), test.images[:1])
        result.append(accuracy(voting.eval(), test))
    # The difference of two shares of 500 digits has a standard deviation of 3 % at most.
    assert result[0] > result[1] + 0.09


@pytest.mark.parametrize(
    "defense",
    [SmoothAdv(steps=1, noise_samples=1), MACER(noise_samples=2, radius_weight=1)],
    ids=["smoothadv", "macer"],
)
def test_other_ways_to_train_it_learn_too(
    defense: RandomizedSmoothing, digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """After a few epochs the vote is right on most digits."""
    train, test = digits
    defended = defense.protect(network(), train.images[:1])
    defense.fit(defended, Trainer(train, Recipe(epochs=12), seed=0, device=torch.device("cpu")))
    assert accuracy(defended, test) > 0.7


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("randomized-smoothing", "sigma", -1),
        ("randomized-smoothing", "sigma", 0),
        *(("smoothadv", parameter, 0) for parameter in ("eps", "steps", "noise_samples", "sigma")),
        *(("macer", parameter, 0) for parameter in ("gamma", "beta", "noise_samples", "sigma")),
    ],
)
def test_bad_parameters(name: str, parameter: str, value: float) -> None:
    """A sigma, a radius, a step number or a number of draws of 0 is a usage error."""
    with pytest.raises(UserError, match=rf"{name}.{parameter} is {value}: input should be greater than"):
        registry.load(name).from_parameters({parameter: value}, name=name)

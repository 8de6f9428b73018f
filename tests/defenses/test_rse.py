from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.defenses.base.decision_rules import Decision
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.rse import RSE


def test_it_is_gaussian_noise_and_the_mean() -> None:
    """The variance of the mean probabilities is inversely proportional to the number of draws."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(1, 1, 2, 2).repeat(3000, 1, 1, 1)
    variances = []
    for draws in (1, 8):
        defended = RSE(draws=draws).protect(model, images[:1])
        assert isinstance(defended, Decision)
        with torch.no_grad():
            variances.append(defended(images).exp().var(0))
    ratios = variances[0] / variances[1]
    # The ratio of two variances of 3000 normal numbers each has a standard deviation of 2.6 %.
    assert ((ratios / 8 - 1).abs() < 0.1).all()


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(4, 1, 28, 28)),
        (torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32)),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_without_noise_it_is_the_model(model: nn.Module, images: Tensor) -> None:
    """Without noise one draw equals the model exactly, and the mean of several equals its softmax."""
    model.eval()
    one = RSE(sigma_init=0, sigma_inner=0, decision="one-draw").protect(model, images[:1])
    assert torch.equal(one(images), model(images))
    many = RSE(sigma_init=0, sigma_inner=0, draws=3).protect(model, images[:1])
    torch.testing.assert_close(many(images).exp(), model(images).softmax(1))


def test_the_ensemble_is_better_than_one_draw(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """After training with one draw a step, the mean of ten draws has a higher accuracy than one draw."""
    train, test = digits
    defense = RSE()
    defended = defense.protect(network(), train.images[:1])
    defense.fit(defended, Trainer(train, Recipe(epochs=20), seed=0, device=torch.device("cpu")))
    assert isinstance(defended, Decision)
    assert accuracy(defended, test) > max(0.94, accuracy(defended.model, test))

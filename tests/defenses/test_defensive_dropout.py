from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import defensive_dropout as module
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.defensive_dropout import DefensiveDropout


def identity() -> nn.Module:
    """Dropout and a layer without effect."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 4, bias=False))
    nn.init.eye_(model[2].weight)
    return model


@torch.no_grad()
def test_as_many_are_dropped_as_the_rate_says() -> None:
    """In eval() mode the number of dropped activations is binomial (level 0.001), and the rest is scaled up."""
    rows = torch.ones(5000, 1, 2, 2)
    output = DefensiveDropout(test_rate=0.3).protect(identity(), rows[:1]).eval()(rows)
    dropped = int((output == 0).sum())
    assert stats.binomtest(dropped, output.numel(), 0.3).pvalue > 0.001
    assert torch.allclose(output[output != 0], torch.tensor(1 / 0.7))
    # The sixteen patterns of a row have the frequencies of independent draws.
    pattern = ((output == 0).long() * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    chances = [0.3 ** sum(bits) * 0.7 ** (4 - sum(bits)) for bits in itertools.product((0, 1), repeat=4)]
    assert stats.chisquare(pattern.numpy(), 5000 * torch.tensor(chances).double().numpy()).pvalue > 0.001


def test_training_has_a_rate_of_its_own() -> None:
    """In train() mode the training rate applies, for any test rate."""
    rows = torch.ones(5000, 1, 2, 2)
    for given, expected in ((None, 0.5), (0.2, 0.2)):
        defended = DefensiveDropout(test_rate=0.9, train_rate=given).protect(identity(), rows[:1]).train()
        dropped = int((defended(rows) == 0).sum())
        assert stats.binomtest(dropped, 20000, expected).pvalue > 0.001


@pytest.mark.parametrize(
    ("model", "images", "place"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(4, 1, 28, 28), "dropout"),
        (torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32), "fc.0"),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_at_rate_0_it_is_the_model(model: nn.Module, images: Tensor, place: str) -> None:
    """It replaces the model's dropout or precedes its last layer. At rate 0 it equals the model exactly."""
    model.eval()
    quiet = DefensiveDropout(test_rate=0).protect(model, images[:1])
    assert [name for name, part in quiet.named_modules() if hasattr(part, "train_rate")] == [place]
    assert torch.equal(quiet(images), model(images))
    assert is_randomized(DefensiveDropout(test_rate=0.3).protect(model, images[:1]), images)


def test_the_choice_is_the_best_that_is_allowed() -> None:
    """The choice has the lowest success within the bound, and a looser bound gives no higher success."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        table = torch.rand(10, 2, generator=draw).tolist()
        measured = [module._Measurement(rate / 10, *figures) for rate, figures in enumerate(table)]
        before = 1.0
        for drop in (0.0, 0.1, 0.3, 1.0):
            chosen = module._choose(measured, drop)
            success = next(each.success for each in measured if each.rate == chosen)
            assert all(each.success >= success or each.accuracy < measured[0].accuracy - drop for each in measured)
            assert success <= before
            before = success


def test_a_rate_is_chosen_and_kept(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Training selects a test rate, and a checkpoint contains it."""
    train, _ = digits
    defense = DefensiveDropout(eps=0.15, accuracy_drop=0.1)
    defended = defense.protect(normed(), train.images[:1])
    trainer = Trainer(train, Recipe(epochs=8), seed=0, device=torch.device("cpu"))
    defense.fit(defended, trainer)
    assert 0 < defended.state_dict()["6.rate"] < 0.9
    again = defense.protect(normed(), train.images[:1]).eval()
    again.load_state_dict(defended.state_dict())
    logits = []
    for model in (defended, again):
        torch.manual_seed(0)
        logits.append(model(train.images[:50]))
    torch.testing.assert_close(*logits)
    strict = DefensiveDropout(eps=0.15, accuracy_drop=0.1, test_rate=0.2)
    fixed = strict.protect(normed(), train.images[:1])
    strict.fit(fixed, trainer)
    assert fixed.state_dict()["6.rate"] == torch.tensor(0.2)


def test_a_model_without_linear_layers() -> None:
    """A model without dropout and without a fully connected layer is a usage error."""
    model = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(UserError, match="precedes fully connected layers, and Sequential runs none"):
        DefensiveDropout().protect(model, torch.rand(1, 1, 8, 8))

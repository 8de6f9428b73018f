from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import Choice, UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.defense import Defense, defend
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.feature_squeezing import FeatureSqueezing
from robustbench_cli.defenses.hrs import HRS, hrs
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pgd_at import PGDAT

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Inverting(nn.Module):
    """A network on inverted images, which it may write into its input.

    Args:
        in_place: Whether it does.
    """

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.network = network()
        self.in_place = in_place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.neg_().add_(1) if self.in_place else 1 - images)
        return logits


@pytest.mark.parametrize("name", ["pgd-at", "csa", "soae-at", "infoat", "j-sigr", "ladder", "sparta"])
def test_a_network_that_writes_into_its_input(name: str) -> None:
    """It trains to the same weights as one that does not."""
    weights = [
        defend(Inverting(in_place=in_place), name, (IMAGES.clone(), LABELS), epochs=1).state_dict()
        for in_place in (False, True)
    ]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, msg=key)


def network() -> nn.Sequential:
    """A network of two layers with weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))


class Split:
    """Examples with the interface of a split."""

    def __len__(self) -> int:
        return len(IMAGES)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return IMAGES[indices], LABELS[indices]


@pytest.mark.parametrize(
    "examples",
    [
        (IMAGES, LABELS),
        [IMAGES.numpy(), LABELS.tolist()],
        (IMAGES.numpy().astype(np.float64), LABELS.numpy().astype(np.uint8)[:, None]),
        Namespace(images=IMAGES, labels=LABELS),
    ],
)
def test_two_arrays_train_as_a_split_does(examples: Any) -> None:
    """Arrays of any kind, also as what first_examples gives, give the same weights as a split with the same images. The model stays unchanged."""
    expected = defend(network(), Undefended(), Split(), epochs=1).state_dict()
    model = network().train()
    weights = defend(model, Undefended(), examples, epochs=1).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert model.training
    assert all(map(torch.equal, model.parameters(), network().parameters()))


class Holder:
    """Has splits, as a data set has."""

    def split(self, name: str) -> None: ...


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"model": nn.Linear}, "the model is the class Linear: give an instance of it"),
        (
            {"defense": HRS},
            r"the defense is the class HRS: give one with its parameters, such as HRS\(channels=\(5, 5\)\)",
        ),
        ({"defense": "hsr"}, "unknown defense 'hsr': did you mean 'hrs'"),
        ({"examples": Holder()}, r"the examples are a Holder: give one of its splits, dataset\.split\('train'\)"),
        ({"examples": IMAGES}, r"the examples are a Tensor: .*give"),
        ({"examples": (IMAGES * 255, LABELS)}, "the images reach from .*: divide them by 255"),
        ({"examples": (IMAGES, LABELS[:5])}, "12 images need as many labels"),
        ({"examples": (IMAGES, LABELS + 1)}, "the labels reach from 1 to 3, and the model gives 3 logits per image"),
        ({"examples": (IMAGES.expand(-1, 3, -1, -1), LABELS)}, r"the model fails on images of shape \(3, 8, 8\)"),
        ({"device": "gpu"}, "device is 'gpu': give cpu, cuda or cuda:N"),
        ({"seed": "one"}, "seed is 'one': give a whole number"),
        ({"epoch": 3}, "recipe has no parameter 'epoch': did you mean 'epochs'?"),
        ({"learning_rate": 0.1}, "recipe has no parameter 'learning_rate': did you mean 'lr'?"),
        ({"epochs": 0}, "recipe.epochs is 0"),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], line: str) -> None:
    """A wrong argument is a usage error of one line, before any training."""
    arguments = {"model": network(), "defense": Undefended(), "examples": (IMAGES, LABELS), **changed}
    with pytest.raises(UserError, match=f"^{line}") as refusal:
        defend(arguments.pop("model"), arguments.pop("defense"), arguments.pop("examples"), **arguments)
    assert "\n" not in str(refusal.value)


def test_hrs_takes_an_example_of_any_kind() -> None:
    """A shape, a tensor, an array and 8-bit pixels give the same cuts."""
    names = [
        [name for name, _ in hrs(network(), example, channels=(2, 2)).named_parameters()]
        for example in ((1, 8, 8), [1, 8, 8], IMAGES, IMAGES.numpy(), (IMAGES.numpy() * 255).astype(np.uint8))
    ]
    assert all(other == names[0] for other in names)
    for model, example, line in (
        (network, (1, 8, 8), "the model is a function"),
        (network(), (1, 8), "the example's images have the shape"),
        (network(), (1, 0, 8), "a side of the example is 0"),
    ):
        with pytest.raises(UserError, match=f"^{line}"):
            hrs(model, example)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no parameter 'chanels': did you mean 'channels'"):
        hrs(network(), (1, 8, 8), chanels=(2, 2))  # type: ignore[call-arg]


class Wrapper(Defense):
    """A user's defense without training."""

    paper: ClassVar[str] = "none"

    def protect(self, model: nn.Module, example: torch.Tensor) -> nn.Module:
        return model


class Trained(Wrapper):
    """A user's defense with training, which it does not declare."""

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains nothing in this test."""


class Calibrated(Trained):
    """A user's defense whose ``fit`` only sets a threshold."""

    trains: ClassVar[bool] = False

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        """Sets nothing in this test."""


class Derived(Calibrated):
    """Inherits everything."""


class Retrained(Calibrated):
    """Adds a training."""

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains nothing in this test."""


@pytest.mark.parametrize(
    ("kind", "trains", "needs_fit"),
    [
        (Wrapper, False, False),
        (Trained, True, True),
        (Calibrated, False, True),
        (Derived, False, True),
        (Retrained, True, True),
    ],
)
def test_a_class_trains_if_it_defines_fit(kind: type[Defense], trains: bool, needs_fit: bool) -> None:
    """Unless it declares otherwise. The class knows it, so nothing is built."""
    assert (kind.trains, kind().needs_fit) == (trains, needs_fit)


WRAPPERS = {
    *("feature-squeezing", "gdws", "jpeg", "noise-injection", "random-resize-pad", "sap", "total-variation"),
}


def test_which_defenses_train() -> None:
    """The wrappers share their base model's training. A detector still needs clean examples for its threshold."""
    assert {name for name in registry.names() if not registry.load(name).trains} == WRAPPERS
    complete = {name for name in registry.names() if not registry.load(name)().needs_fit}
    assert complete == WRAPPERS - {"gdws"}
    assert FeatureSqueezing(false_positive_rate=0.1).needs_fit


def test_a_named_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values hold where the caller gives none; what does not fit is named in a warning."""
    seen: list[tuple[PGDAT, Trainer]] = []
    with pytest.warns(
        Choice, match="recipe pang-2021 is for cifar10, not these images: its network, augmentations, eps"
    ):
        defend(network(), PGDAT(steps=1), (IMAGES, LABELS), recipe="pang-2021", epochs=1, batch_size=4)
    monkeypatch.setattr(PGDAT, "fit", lambda defense, model, trainer: seen.append((defense, trainer)))
    with pytest.warns(Choice, match="not these images"):
        defend(network(), PGDAT(steps=3), (IMAGES, LABELS), recipe="pang-2021", epochs=2)
    ((defense, trainer),) = seen
    recipe = trainer.recipe
    assert (recipe.epochs, recipe.lr, recipe.weight_decay, recipe.recipe) == (2, 0.1, 5e-4, "pang-2021")
    assert defense.steps == 3
    with pytest.raises(UserError, match="unknown recipe 'pang': did you mean 'pang-2021'"):
        defend(network(), PGDAT(), (IMAGES, LABELS), recipe="pang")


def test_extra_examples(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """They take their fraction of each batch. Another shape, a label of no class and pseudo-labels are refused."""
    train, _ = digits
    images = train.images[:60]
    extra = 1 - images, torch.full((60,), 9)
    plain, mixed = (
        defend(normed(), "none", (images, torch.zeros(60, dtype=torch.int64)), epochs=20, batch_size=20, **options)
        for options in ({}, {"extra": extra, "extra_fraction": 0.5})
    )
    assert (plain(extra[0]).argmax(1) == 0).all()
    assert (mixed(extra[0]).argmax(1) == 9).float().mean() > 0.9
    for options, message in (
        ({"extra": (images[:, :, 1:], extra[1])}, r"extra has images \(1, 7, 8\), and the examples have \(1, 8, 8\)"),
        ({"extra": (images, extra[1] + 1)}, "10"),
        ({"momentum": 0.5}, "recipe: momentum has no effect without optimizer=sgd: give optimizer=sgd too, or leave"),
        ({"extra_fraction": 0.5}, "recipe: extra_fraction is for extra training images: give extra too"),
        ({"extra": extra, "pseudo_labels": "a.safetensors"}, "pseudo_labels is for the command line"),
    ):
        with pytest.raises(UserError, match=message):
            defend(normed(), "none", (images, extra[1]), epochs=1, **options)

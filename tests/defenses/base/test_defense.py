from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.hrs import HRS, hrs
from robustbench_cli.defenses.none import Undefended

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def network() -> nn.Sequential:
    """A network of two layers with weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))


class Held:
    """Examples as the trainer asks for them."""

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
    ],
)
def test_two_arrays_train_as_a_split_does(examples: Any) -> None:
    """Images and labels in memory, of any kind, give the weights that the same split gives, and stay as they are."""
    expected = defend(network(), Undefended(), Held(), epochs=1).state_dict()
    model = network().train()
    found = defend(model, Undefended(), examples, epochs=1).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.training
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), network().parameters(), strict=True))


class Holder:
    """Something with splits, as a data set."""

    def split(self, name: str) -> None: ...


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"model": nn.Linear}, "the model is the class Linear: give an instance of it"),
        (
            {"defense": HRS},
            r"the defense is the class HRS: give one with its parameters, such as HRS\(channels=\(5, 5\)\)",
        ),
        ({"defense": "hrs"}, "the defense is a str: give one with its parameters"),
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
def test_each_wrong_argument_is_one_line(changed: dict[str, Any], line: str) -> None:
    """What is wrong is said before anything is trained."""
    given = {"model": network(), "defense": Undefended(), "examples": (IMAGES, LABELS), **changed}
    with pytest.raises(UserError, match=f"^{line}") as refusal:
        defend(given.pop("model"), given.pop("defense"), given.pop("examples"), **given)
    assert "\n" not in str(refusal.value)


def test_hrs_takes_an_example_of_any_kind() -> None:
    """A shape, a tensor, an array or 8-bit pixels cut the model at the same places."""
    names = [
        [name for name, _ in hrs(network(), example, channels=(2, 2)).named_parameters()]
        for example in ((1, 8, 8), [1, 8, 8], IMAGES, IMAGES.numpy(), (IMAGES.numpy() * 255).astype(np.uint8))
    ]
    assert all(each == names[0] for each in names)
    for model, example, line in (
        (network, (1, 8, 8), "the model is a function"),
        (network(), (1, 8), "the example's images have the shape"),
        (network(), (1, 0, 8), "a side of the example is 0"),
    ):
        with pytest.raises(UserError, match=f"^{line}"):
            hrs(model, example)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no parameter 'chanels': did you mean 'channels'"):
        hrs(network(), (1, 8, 8), chanels=(2, 2))  # type: ignore[call-arg]

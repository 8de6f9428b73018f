from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.di_fgsm import DIFGSM
from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.transfer import Transfer
from robustbench_cli.core.errors import UserError

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("inner", [MIFGSM(), DIFGSM(steps=4), PGD(steps=5, restarts=2)], ids=repr)
def test_on_the_attacked_model_itself_it_is_the_other_attack(inner: Any, targeted: bool, digits_victim: Victim) -> None:
    """With the attacked model as its surrogate it gives that attack's images, bit by bit."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    wanted = inner(model, images, labels, eps=0.1, targeted=targeted, seed=3)
    transfer = Transfer(surrogate=model, attack=inner)
    assert torch.equal(transfer(model, images, labels, eps=0.1, targeted=targeted, seed=3), wanted)


class Unasked(nn.Module):
    """A model that must not be asked anything."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the attacked model was asked")


def test_the_attacked_model_is_asked_nothing(digits_victim: Victim) -> None:
    """Of any model the images are those of the attack on the surrogate, which is left as it was."""
    images, labels = digits_victim.images, digits_victim.labels
    surrogate = copy.deepcopy(digits_victim.model).train()
    perturbed = Transfer(surrogate=surrogate)(Unasked(), images, labels, eps=0.1)
    assert torch.equal(perturbed, MIFGSM()(digits_victim.model, images, labels, eps=0.1))
    assert all(module.training for module in surrogate.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in surrogate.parameters())


def test_what_a_linear_surrogate_gives_away_is_known(linear_victim: Callable[..., LinearVictim]) -> None:
    """In linf the image moves by eps along the signs of the surrogate's weights, and a victim loses the margin of that move.

    The victim's weights are the surrogate's with half of the signs turned, so that its margin changes by a known amount
    other than its own steepest one.
    """
    victim = linear_victim(2)
    surrogate = copy.deepcopy(victim.model)
    with torch.no_grad():
        weight = surrogate.get_parameter("weight")
        weight[:, ::2] *= -1
        direction = weight.diff(dim=0)[0].sign().view_as(victim.images[0])
    perturbed = Transfer(surrogate=surrogate)(victim.model, victim.images, victim.labels, eps=0.05)
    towards = (1 - 2 * victim.labels).view(-1, 1, 1, 1)
    torch.testing.assert_close(perturbed, victim.images + 0.05 * towards * direction)


class NoiseLayer(nn.Module):
    """A model behind uniform noise of a width."""

    def __init__(self, model: nn.Module, width: float) -> None:
        super().__init__()
        self.model = model
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images + self.width * (torch.rand_like(images) - 0.5))
        return logits


def test_of_a_randomized_surrogate_the_expectation_is_followed(digits_victim: Victim) -> None:
    """Its draws are averaged over as many as were asked for: with 30, more images of a model without noise fall than with 1."""
    surrogate = NoiseLayer(digits_victim.model, 2.5)
    images, labels = digits_victim.images, digits_victim.labels
    left = {}
    for draws in (1, 30):
        torch.manual_seed(0)
        attack = Transfer(surrogate=surrogate, attack="mi-fgsm")
        left[draws] = digits_victim.accuracy(attack(digits_victim.model, images, labels, eps=0.15, eot=draws))
    assert left[30] < left[1] - 0.05


def test_of_linear_surrogates_the_mean_is_followed(linear_victim: Callable[..., LinearVictim]) -> None:
    """Two surrogates whose weights have the victim's as their mean give away what the victim itself does."""
    victim = linear_victim(3)
    first, second = copy.deepcopy(victim.model), copy.deepcopy(victim.model)
    noise = 50 * torch.randn_like(victim.model.get_parameter("weight"))
    with torch.no_grad():
        first.get_parameter("weight").add_(noise)
        second.get_parameter("weight").sub_(noise)
    eps = 1.05 * victim.radii("linf")
    options = {"eps": eps}
    attacks = {"both": Transfer(surrogate=first, ensemble=[second]), "one": Transfer(surrogate=first)}
    left = {
        name: victim.accuracy(attack(victim.model, victim.images, victim.labels, **options))
        for name, attack in attacks.items()
    }
    white_box = victim.accuracy(MIFGSM()(victim.model, victim.images, victim.labels, **options))
    assert left["both"] == white_box < left["one"]


def test_a_file_is_no_model_yet(digits_victim: Victim) -> None:
    """From Python the surrogate is to be loaded, which the message says."""
    attack = Transfer(surrogate="other.safetensors")
    assert attack.surrogate == Path("other.safetensors")
    with pytest.raises(
        UserError, match=r"the surrogate is the file other.safetensors: give its model, load_checkpoint"
    ):
        attack(digits_victim.model, digits_victim.images, digits_victim.labels, eps=0.1)


def test_its_attack_is_read_as_a_suite_writes_it() -> None:
    """A name, a name with parameters, and what JSON has made of it are the attack that they say."""
    for words in ("di-fgsm", {"name": "di-fgsm", "steps": 20}):
        read = Transfer.from_parameters({"surrogate": "a.safetensors", "attack": words}, name="transfer")
        assert read.attack == DIFGSM(steps=20 if isinstance(words, dict) else 10)
        assert Transfer.from_parameters(read.model_dump(mode="json"), name="transfer") == read
    dumped = Transfer(surrogate="a.safetensors").model_dump(mode="json")["attack"]
    assert dumped == {"name": "mi-fgsm", **MIFGSM().model_dump(mode="json")}


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "transfer needs transfer.surrogate: checkpoint of the surrogate model"),
        ({"surrogate": 3}, "transfer.surrogate is 3: give the file of a checkpoint"),
        (
            {"ensemble": "b.safetensors"},
            "transfer.ensemble is 'b.safetensors': give a list, such as [\"b.safetensors\"]",
        ),
        ({"attack": "mi-fgsn"}, "transfer.attack is 'mi-fgsn': unknown attack 'mi-fgsn': did you mean"),
        ({"attack": {"name": "mi-fgsm", "stepz": 3}}, "mi-fgsm has no parameter 'stepz': did you mean 'steps'"),
        ({"attack": {"name": "mi-fgsm", "steps": 0}}, "mi-fgsm.steps is 0"),
        ({"attack": {"steps": 3}}, "give the name of an attack, alone or as in"),
        ({"attack": "own.py:Mine"}, "give one of the project's own attacks, such as mi-fgsm"),
        ({"attack": FMN()}, "give a gradient-based fixed-radius attack that supports linf, such as mi-fgsm"),
        ({"attack": "square"}, "give a gradient-based fixed-radius attack that supports linf, such as mi-fgsm"),
        (
            {"attack": Transfer(surrogate="a")},
            "give a gradient-based fixed-radius attack that supports linf, such as mi-fgsm",
        ),
    ],
    ids=str,
)
def test_other_words_are_refused(parameters: dict[str, Any], told: str) -> None:
    """One line says which parameter, and what would be right."""
    given = {"surrogate": "a.safetensors", **parameters} if parameters else {}
    with pytest.raises(UserError) as caught:
        Transfer.from_parameters(given, name="transfer")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_many_classes_it_needs_is_what_its_attack_needs() -> None:
    """APGD-T has fewer targets than it asks for where there are few classes, whatever model it runs on."""
    attack = APGDT(n_target_classes=5)
    for targeted in (False, True):
        assert Transfer(surrogate="a", attack=attack).min_classes(targeted=targeted) == attack.min_classes(
            targeted=targeted
        )


def test_passes_are_counted_where_they_are_made(digits_victim: Victim) -> None:
    """Those of the other attack, on the source that it is given."""
    source = gradient_source(digits_victim.model.requires_grad_(False), randomized=False)
    threat = Threat(norm="linf", eps=torch.full((60,), 0.1, dtype=torch.float64))
    attack = Transfer(surrogate=digits_victim.model, attack=MIFGSM(steps=7))
    attack.run(source, digits_victim.images, digits_victim.labels, threat, Random.of(0, digits_victim.images))
    assert (source.forwards, source.backwards) == (7 * 60, 7 * 60)

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack, FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.parameters.surrogate import surrogate_parameters
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance

from .conftest import LinearVictim, Victim

CASES = [(name, norm) for name in registry.names() for norm in registry.load(name).norms]
EPS: dict[Norm, float] = {"linf": 0.25, "l2": 1.5, "l1": 12.0, "l0": 12.0}
"""Radii at which the digits are easily told apart by eye, and hardly any is still classified right."""

QUICK = {"steps": 25, "queries": 250, "pairs": 4}


def quick(name: str, model: nn.Module) -> Attack:
    """The attack with its defaults, but for what it costs: the number of its steps, or of what it asks the model.

    An attack that needs a surrogate has the model itself.
    """
    kind: type[Attack] = registry.load(name)
    parameters = {**QUICK, **dict.fromkeys(surrogate_parameters(kind), model)}
    return kind(**{key: value for key, value in parameters.items() if key in kind.model_fields})


pytestmark = pytest.mark.parametrize(("name", "norm"), CASES)


def lowers_the_accuracy(attack: Attack, norm: Norm, victim: Victim) -> None:
    """Under attack, less than two thirds of what was right is; at half the radius, if it has one, not less than there."""
    eps = None if attack.minimal_norm else EPS[norm]
    assert victim.accuracy(victim.images) == 1
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, norm=norm, eps=eps)) < 0.67


def reaches_targets(attack: Attack, norm: Norm, victim: Victim) -> None:
    """Of classes that no image has, more than a third is reached."""
    eps = None if attack.minimal_norm else EPS[norm]
    targets = (victim.labels + 1) % 10
    perturbed = attack(victim.model, victim.images, targets, norm=norm, eps=eps, targeted=True)
    with torch.no_grad():
        assert (victim.model(perturbed).argmax(1) == targets).double().mean() > 0.34


class Nothing(FixedRadiusAttack):
    """Returns the images."""

    norms: ClassVar[tuple[Norm, ...]] = NORMS

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images


@pytest.mark.parametrize("claim", [lowers_the_accuracy, reaches_targets])
def test_it_does_what_an_attack_is_for(
    name: str, norm: Norm, claim: Callable[[Attack, Norm, Victim], None], digits_victim: Victim
) -> None:
    """It lowers the accuracy and reaches targets; the same claim is false of an attack that does nothing."""
    claim(quick(name, digits_victim.model), norm, digits_victim)
    with pytest.raises(AssertionError):
        claim(Nothing(), norm, digits_victim)


def test_it_keeps_to_the_ball_and_the_box(name: str, norm: Norm, digits_victim: Victim) -> None:
    """Every image stays within its own radius and in [0, 1]; at radius 0 it is returned bit by bit."""
    eps = torch.linspace(0, EPS[norm], 60, dtype=torch.float64)
    images = digits_victim.images
    perturbed = quick(name, digits_victim.model)(digits_victim.model, images, digits_victim.labels, norm=norm, eps=eps)
    assert (distance(perturbed, images, norm) <= eps).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    assert torch.equal(perturbed[0], images[0])
    assert (perturbed[-10:] != images[-10:]).flatten(1).any(1).any()


def test_it_leaves_everything_as_it_was(name: str, norm: Norm, digits_victim: Victim) -> None:
    """The images, the labels, and the model's weights, modes and needs of gradients; no parameter has got a gradient."""
    model, images, labels = digits_victim.model, digits_victim.images[:5].clone(), digits_victim.labels[:5].clone()
    model.train()
    model[0].weight.requires_grad_(False)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = None
    perturbed = quick(name, model)(model, images, labels, norm=norm, eps=EPS[norm])
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]
    model.eval().requires_grad_(True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(images, digits_victim.images[:5])
    assert torch.equal(labels, digits_victim.labels[:5])
    assert not perturbed.requires_grad
    assert perturbed.data_ptr() != images.data_ptr()


def test_an_images_result_is_its_own(name: str, norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """Whichever images stand beside it and however the batch is cut, an image's result is the same bit by bit."""
    victim = linear_victim(5)
    attack: Attack = quick(name, victim.model)
    radius = victim.radii(norm).double()
    # Some fall at once, some on the way, some not at all.
    threat = Threat(norm=norm, eps=radius * torch.linspace(0.5, 3, 24, dtype=torch.float64))
    random = Random.of(3, victim.images)

    def run(rows: Tensor, batch_size: int | None = None) -> Tensor:
        with torch.no_grad():
            source = gradient_source(victim.model.requires_grad_(False), randomized=False, batch_size=batch_size)
            return attack.run(
                source, victim.images[rows], victim.labels[rows], threat.select(rows), random.select(rows)
            )

    every = torch.arange(24)
    whole = run(every)
    for batch_size in (1, 7, 24):
        assert torch.equal(run(every, batch_size), whole)
    for rows in (torch.tensor([5]), torch.tensor([23, 1, 12]), every.flip(0), torch.tensor([2, 2, 17])):
        assert torch.equal(run(rows), whole[rows])


@pytest.mark.parametrize("classes", [2, 3])
def test_it_works_on_few_classes(
    name: str, norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Two and three classes are as good as ten: with half as much again as the distance needs, every image falls."""
    victim = linear_victim(classes)
    eps = 1.5 * victim.radii(norm).amax()
    attack: Attack = quick(name, victim.model)
    perturbed = attack(victim.model, victim.images, victim.labels, norm=norm, eps=None if attack.minimal_norm else eps)
    assert victim.accuracy(perturbed) <= 0.05


class Jitter(nn.Module):
    """A linear model whose rows are moved by one of three known offsets each, which can be enumerated."""

    number_of_draws = 3
    cost_of_all_draws = 3.0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.randint(3, (len(images),))
        return self.all_draws(images)[drawn, torch.arange(len(images))]

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images + offset) for offset in (-0.02, 0.0, 0.02)])


@pytest.mark.parametrize("eot", [1, 8, "exact"])
def test_it_works_on_a_randomized_model(name: str, norm: Norm, eot: int, digits_victim: Victim) -> None:
    """With any source of gradients the share of all draws that is right falls, and equals that of the same seed again."""
    model, images, labels = Jitter(digits_victim.model), digits_victim.images[:20], digits_victim.labels[:20]
    attack: Attack = quick(name, digits_victim.model)

    def share(images: Tensor) -> float:
        with torch.no_grad():
            return (model.all_draws(images).argmax(2) == labels).double().mean().item()

    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(attack(model, images, labels, norm=norm, eps=None if attack.minimal_norm else EPS[norm], eot=eot))
    assert torch.equal(*found)
    assert share(images) > 0.95
    assert share(found[0]) < 0.67

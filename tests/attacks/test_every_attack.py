"""What every attack has to do: a floor of its strength, the ball and the box, and images that do not affect each other."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.surrogate import surrogate_parameters
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance

from .conftest import LinearVictim, Victim

NAMES = [name for name in registry.names() if registry.load(name).perturbs]
CASES = [(name, norm) for name in NAMES for norm in registry.load(name).norms]
FIRST_NORMS = {name: registry.load(name).norms[0] for name in NAMES}
EPS: dict[Norm, float] = {"linf": 0.25, "l2": 1.5, "l1": 12.0, "l0": 12.0}
"""Radii at which the digits are easily told apart by eye, and hardly any is still classified correctly."""

QUICK = {"steps": 25, "queries": 250, "pairs": 4, "guide_steps": 5, "neighbors": 3, "scales": 2, "spectra": 3}
FEW = {
    "steps": 10,
    "queries": 100,
    "pairs": 4,
    "binary_search_steps": 3,
    "n_target_classes": 3,
    "candidates": 3,
    "guide_steps": 5,
    "neighbors": 3,
    "scales": 2,
    "spectra": 3,
}
FEW_OF = {
    "cw": {"steps": 40},
    "deepfool": {"steps": 20},
    **{name: {"queries": 400} for name in ("boundary", "geoda", "hopskipjump", "rays", "surfree")},
    "sigma-zero": {"steps": 40},
}
"""What attacks need beyond :data:`FEW` to break most of the images."""


def with_parameters(name: str, model: nn.Module, parameters: dict[str, int]) -> Attack:
    """The attack with those of the parameters that it has. An attack that needs a surrogate gets the model itself."""
    kind: type[Attack] = registry.load(name)
    given = {**parameters, **dict.fromkeys(surrogate_parameters(kind), model)}
    return kind(**{key: value for key, value in given.items() if key in kind.model_fields})


def quick(name: str, model: nn.Module) -> Attack:
    """The attack with its defaults, except for fewer steps and queries."""
    return with_parameters(name, model, QUICK)


def few(name: str, model: nn.Module) -> Attack:
    """The attack with very few steps, queries and targets."""
    return with_parameters(name, model, FEW | ({"steps": 40} if name == "sigma-zero" else {}))


UNDIRECTED = ("hidden-h1", "hidden-h2")
"""Attacks that increase a distance from the image, which on a linear model grows on both sides."""


class Floor(NamedTuple):
    """What an attack reaches on 60 digits with the parameters in :data:`FEW` and :data:`FEW_OF`.

    Attributes:
        factor: The radius of each image, relative to its reference distance in this norm.
        broken: Least number of images that the untargeted attack breaks within that radius.
        target_factor: The radius of the targeted attack, likewise.
        reached: Least number of images that reach the class after their own.
    """

    factor: float
    broken: int
    target_factor: float
    reached: int


FLOORS: dict[tuple[str, Norm], Floor] = {
    ("admix", "linf"): Floor(1.3, 38, 2.5, 49),
    ("apgd-ce", "linf"): Floor(1.02, 30, 1.5, 25),
    ("apgd-ce", "l2"): Floor(1.05, 36, 1.5, 25),
    ("apgd-ce", "l1"): Floor(1.3, 47, 2.5, 43),
    ("apgd-dlr", "linf"): Floor(1.02, 39, 1.5, 25),
    ("apgd-dlr", "l2"): Floor(1.05, 37, 1.5, 23),
    ("apgd-dlr", "l1"): Floor(1.5, 51, 2.5, 41),
    ("apgd-pm", "linf"): Floor(1.02, 46, 1.5, 14),
    ("apgd-pm", "l2"): Floor(1.05, 41, 1.5, 14),
    ("apgd-pm", "l1"): Floor(1.3, 43, 2.5, 20),
    ("apgd-t", "linf"): Floor(1.02, 45, 1.5, 25),
    ("apgd-t", "l2"): Floor(1.05, 49, 1.5, 23),
    ("apgd-t", "l1"): Floor(1.3, 45, 2.5, 41),
    ("boundary", "l2"): Floor(1.7, 46, 2.5, 36),
    ("cw", "l2"): Floor(1.02, 36, 1.5, 29),
    ("cw-linf", "linf"): Floor(1.02, 43, 2, 41),
    ("cw-pgd", "linf"): Floor(1.05, 46, 1.5, 25),
    ("cw-pgd", "l2"): Floor(1.02, 34, 2, 42),
    ("cw-pgd", "l1"): Floor(1.05, 36, 3, 46),
    ("ddn", "l2"): Floor(1.02, 37, 4, 54),
    ("deepfool", "l2"): Floor(1.1, 53, 4, 54),
    ("deepfool", "linf"): Floor(1.2, 53, 4, 52),
    ("di-fgsm", "linf"): Floor(1.1, 24, 1.7, 32),
    ("expected-cost", "linf"): Floor(1.02, 34, 1.7, 36),
    ("expected-cost", "l2"): Floor(1.02, 35, 1.5, 26),
    ("expected-cost", "l1"): Floor(1.02, 26, 2, 35),
    ("fab", "linf"): Floor(1.05, 40, 8, 48),
    ("fab", "l2"): Floor(1.02, 42, 1.5, 27),
    ("fab", "l1"): Floor(1.02, 33, 2.5, 40),
    ("fab-t", "linf"): Floor(1.05, 43, 8, 48),
    ("fab-t", "l2"): Floor(1.02, 42, 1.5, 27),
    ("fab-t", "l1"): Floor(1.02, 35, 2.5, 40),
    ("fgsm", "linf"): Floor(1.3, 41, 4, 40),
    ("fgsm", "l2"): Floor(1.5, 40, 6, 47),
    ("fmn", "l2"): Floor(1.05, 29, 1.7, 27),
    ("fmn", "linf"): Floor(1.02, 44, 1.5, 23),
    ("fmn", "l1"): Floor(1.5, 48, 2, 24),
    ("fmn", "l0"): Floor(1.0, 44, 2, 41),
    ("geoda", "l2"): Floor(1.7, 46, 2.5, 31),
    ("geoda", "linf"): Floor(1.7, 38, 2.5, 29),
    ("hidden-h1", "linf"): Floor(4, 27, 8, 11),
    ("hidden-h1", "l2"): Floor(4, 17, 8, 9),
    ("hidden-h2", "linf"): Floor(1.05, 45, 2, 44),
    ("hidden-h2", "l2"): Floor(1.1, 45, 2, 40),
    ("hidden-h3", "linf"): Floor(1.5, 28, 2.5, 28),
    ("hidden-h3", "l2"): Floor(1.5, 43, 4, 50),
    ("hopskipjump", "l2"): Floor(1.7, 45, 2.5, 37),
    ("hopskipjump", "linf"): Floor(1.7, 36, 2.5, 28),
    ("latent", "linf"): Floor(1.1, 48, 2, 43),
    ("latent", "l2"): Floor(1.3, 44, 2.5, 47),
    ("malt", "linf"): Floor(1.02, 44, 1.5, 25),
    ("malt", "l2"): Floor(1.05, 48, 1.5, 23),
    ("malt", "l1"): Floor(1.3, 49, 2.5, 41),
    ("mi-fgsm", "linf"): Floor(1.3, 51, 2.5, 47),
    ("nes", "linf"): Floor(2, 42, 8, 53),
    ("nes", "l2"): Floor(2, 52, 4, 46),
    ("ni-fgsm", "linf"): Floor(1.2, 50, 2.5, 49),
    ("non-adaptive", "linf"): Floor(1.05, 50, 2.5, 51),
    ("non-adaptive", "l2"): Floor(1.05, 52, 2.5, 51),
    ("paper-cw-pgd", "linf"): Floor(1.1, 45, 2, 42),
    ("paper-pgd", "linf"): Floor(1.1, 45, 2, 42),
    ("pgd", "linf"): Floor(1.02, 34, 1.7, 36),
    ("pgd", "l2"): Floor(1.02, 35, 1.5, 26),
    ("pgd", "l1"): Floor(1.02, 26, 2, 35),
    ("pma", "linf"): Floor(1.02, 42, 1.7, 23),
    ("pma", "l2"): Floor(1.02, 39, 1.5, 20),
    ("pma", "l1"): Floor(1.02, 27, 2, 15),
    ("rays", "linf"): Floor(1.3, 44, 2.5, 21),
    ("second-order", "linf"): Floor(1.02, 46, 1.7, 28),
    ("second-order", "l2"): Floor(1.02, 43, 1.7, 31),
    ("si-ni-fgsm", "linf"): Floor(1.3, 38, 2.5, 50),
    ("sigma-zero", "l0"): Floor(1.5, 51, 2, 32),
    ("simba", "l2"): Floor(1.7, 48, 4, 49),
    ("simba", "linf"): Floor(1.3, 43, 2.5, 42),
    ("sparse-rs", "l0"): Floor(1.0, 46, 2, 44),
    ("spsa", "linf"): Floor(2, 44, 4, 47),
    ("spsa", "l2"): Floor(2, 52, 2.5, 24),
    ("square", "linf"): Floor(1.3, 40, 2, 31),
    ("square", "l2"): Floor(2, 43, 2.5, 22),
    ("square", "l1"): Floor(3, 50, 4, 34),
    ("ssa", "linf"): Floor(1.2, 38, 2.5, 48),
    ("superdeepfool", "l2"): Floor(1.2, 54, 10, 50),
    ("surfree", "l2"): Floor(1.7, 50, 2.5, 37),
    ("ti-fgsm", "linf"): Floor(1.2, 31, 2.5, 44),
    ("transfer", "linf"): Floor(1.3, 51, 2.5, 47),
    ("vmi-fgsm", "linf"): Floor(1.2, 45, 2.5, 48),
    ("vni-fgsm", "linf"): Floor(1.2, 52, 2.5, 47),
}
"""Three images below what the attacks reached when the table was made."""


@pytest.fixture(scope="module")
def fixed_digits() -> Victim:
    """A network that no training changes, with 60 test images: random ReLU features and a ridge regression on the digits.

    The ridge regression is solved in float64, so that the weights are the same on every machine, up to rounding.
    """
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels).reshape(-1, 1, 8, 8) / 16, torch.tensor(targets)
    generator = torch.Generator().manual_seed(0)
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).double().requires_grad_(False)
    )
    model[1].weight.copy_(torch.randn(256, 64, generator=generator, dtype=torch.float64) / 8)
    model[1].bias.copy_(2 * torch.rand(256, generator=generator, dtype=torch.float64) - 1)
    features = torch.cat([model[:3](images), torch.ones(len(images), 1, dtype=torch.float64)], 1)[:1297]
    readout = torch.linalg.solve(
        features.T @ features + torch.eye(257, dtype=torch.float64),
        features.T @ (10 * one_hot(labels[:1297]).double() - 5),
    )
    model[3].weight.copy_(readout[:-1].T)
    model[3].bias.copy_(readout[-1])
    model, images, labels = model.float().eval(), images[1297:].float(), labels[1297:]
    leading = model(images).topk(2)
    clear = (leading.indices[:, 0] == labels) & (leading.values[:, 0] - leading.values[:, 1] > 0.3)
    return Victim(model, images[clear][:60], labels[clear][:60])


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """By norm, the distances ``(60,)`` of the smallest adversarial perturbations known.

    They are the best of fmn, ddn, cw, cw-linf, fab, sigma-zero, apgd-t and sparse-rs, all with many steps.
    """
    with (Path(__file__).parent / "reference_distances.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {norm: torch.tensor([float(row[norm]) for row in rows], dtype=torch.float64) for norm in rows[0]}


def successes(attack: Attack, victim: Victim, norm: Norm, radii: Tensor, *, targeted: bool) -> int:
    """How many images the attack breaks within their radii ``(N,)``, or brings to the class after their own."""
    goals = (victim.labels + 1) % 10 if targeted else victim.labels
    # A radius of 1.0 times a reference distance admits that distance, up to rounding.
    radii = radii * (1 + 1e-6)
    eps = None if attack.minimal_norm else radii
    perturbed = attack(victim.model, victim.images, goals, norm=norm, eps=eps, targeted=targeted)
    same = victim.model(perturbed).argmax(1) == goals
    inside = distance(perturbed, victim.images, norm) <= radii
    return int(((same if targeted else ~same) & inside).sum())


def test_the_table_names_attacks_that_exist() -> None:
    """A line of an attack or a norm that is gone would look like a check."""
    assert FLOORS.keys() <= {*CASES}


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_its_strength_has_a_floor(name: str, norm: Norm, fixed_digits: Victim, reference: dict[str, Tensor]) -> None:
    """Close to the smallest known perturbations, it breaks as many images, and reaches as many targets, as it did before.

    An attack that loses a sign, half of its steps or its projection falls below its floor.
    """
    assert (name, norm) in FLOORS, f"measure {name} in {norm} and add it to FLOORS"
    floor = FLOORS[name, norm]
    attack = with_parameters(name, fixed_digits.model, {**FEW, **FEW_OF.get(name, {})})
    assert fixed_digits.accuracy(fixed_digits.images) == 1
    broken = successes(attack, fixed_digits, norm, floor.factor * reference[norm], targeted=False)
    reached = successes(attack, fixed_digits, norm, floor.target_factor * reference[norm], targeted=True)
    assert broken >= floor.broken
    assert reached >= floor.reached


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_it_keeps_to_the_ball_and_the_box(name: str, norm: Norm, fixed_digits: Victim) -> None:
    """Every image stays within its own radius and in [0, 1]; at radius 0 it is returned bit by bit."""
    eps = torch.linspace(0, EPS[norm], 60, dtype=torch.float64)
    images = fixed_digits.images
    perturbed = few(name, fixed_digits.model)(fixed_digits.model, images, fixed_digits.labels, norm=norm, eps=eps)
    assert (distance(perturbed, images, norm) <= eps).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    assert torch.equal(perturbed[0], images[0])
    assert (perturbed[-10:] != images[-10:]).flatten(1).any(1).any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_it_leaves_everything_as_it_was(name: str, norm: Norm, fixed_digits: Victim) -> None:
    """The images, the labels, and the model's weights, modes and needs of gradients; no parameter has got a gradient."""
    model = copy.deepcopy(fixed_digits.model).requires_grad_(True).train()
    images, labels = fixed_digits.images[:5].clone(), fixed_digits.labels[:5].clone()
    model[1].weight.requires_grad_(False)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = None
    perturbed = few(name, model)(model, images, labels, norm=norm, eps=EPS[norm])
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(images, fixed_digits.images[:5])
    assert torch.equal(labels, fixed_digits.labels[:5])
    assert not perturbed.requires_grad
    assert perturbed.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_images_result_is_its_own(name: str, norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """Whichever images stand beside it and however the batch is cut, an image's result is the same bit by bit."""
    victim = linear_victim(5)
    attack = few(name, victim.model)
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
    for batch_size in (1, 7):
        assert torch.equal(run(every, batch_size), whole)
    for rows in (torch.tensor([23, 1, 12]), torch.tensor([2, 2, 17])):
        assert torch.equal(run(rows), whole[rows])


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("classes", [2, 3])
def test_it_works_on_few_classes(
    name: str, norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Two and three classes are as good as ten: with half as much again as the distance needs, every image falls."""
    victim = linear_victim(classes)
    eps = 1.5 * victim.radii(norm).amax()
    attack: Attack = quick(name, victim.model)
    perturbed = attack(victim.model, victim.images, victim.labels, norm=norm, eps=None if attack.minimal_norm else eps)
    assert victim.accuracy(perturbed) <= (0.6 if name in UNDIRECTED else 0.05)


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


@pytest.mark.parametrize(
    ("name", "norm", "eot"),
    [
        (name, norm, eot)
        for name, norm in CASES
        for eot in (1, 4, "exact")
        if eot == "exact" or norm == FIRST_NORMS[name]
    ],
)
def test_it_works_on_a_randomized_model(name: str, norm: Norm, eot: EOTChoice, fixed_digits: Victim) -> None:
    """With any source of gradients the share of all draws that is right falls, and equals that of the same seed again."""
    model, images, labels = Jitter(fixed_digits.model), fixed_digits.images[:12], fixed_digits.labels[:12]
    attack = with_parameters(name, fixed_digits.model, {**FEW, "steps": 20, "queries": 200})

    def share(images: Tensor) -> float:
        with torch.no_grad():
            return (model.all_draws(images).argmax(2) == labels).double().mean().item()

    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(
            attack(model, images, labels, norm=norm, eps=None if attack.minimal_norm else EPS[norm], eot=eot)
        )
    assert torch.equal(*results)
    assert share(images) > 0.9
    assert share(results[0]) < 0.67

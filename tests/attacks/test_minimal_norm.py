"""Every gradient-based minimal-norm attack, compared with closed-form distances of linear models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance

from .conftest import LinearVictim, NoiseLayer

CASES = [
    (name, norm)
    for name in registry.names()
    if registry.load(name).minimal_norm and registry.load(name).access == "gradients"
    for norm in registry.load(name).norms
]
pytestmark = pytest.mark.parametrize(("name", "norm"), CASES)


def reached(model: nn.Module, images: Tensor) -> Tensor:
    """``(N, 1)``, the classes that a model predicts."""
    with torch.no_grad():
        classes: Tensor = model(images).argmax(1, keepdim=True)
    return classes


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_it_finds_the_closed_form_distance(
    name: str, norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Every image of a linear model falls, within 5 % of the distance to its new class, and most into the nearest class.

    In l0, where a search by gradients chooses among whole pixels, one more than the fewest is allowed for.
    """
    victim = linear_victim(classes)
    attack: Attack = registry.load(name)()
    perturbed = attack(victim.model, victim.images, victim.labels, norm=norm)
    assert victim.accuracy(perturbed) == 0
    length = distance(perturbed, victim.images, norm)
    to_class = victim.distances(norm).gather(1, reached(victim.model, perturbed))[:, 0]
    assert (length <= (to_class + 1 if norm == "l0" else 1.05 * to_class)).all()
    assert (length >= (1 - 1e-5) * victim.radii(norm)).all()
    assert (length <= 1.05 * victim.radii(norm)).double().mean() >= (0.9 if classes == 2 else 0.75)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e12])
def test_it_finds_the_closed_form_distance_to_a_target(
    name: str, norm: Norm, scale: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """The nearest class is reached within 5 % of its distance, or in l0 with a pixel more, whatever the logits' scale."""
    victim = linear_victim(5, scale=scale)
    attack: Attack = registry.load(name)()
    targets = victim.nearest(norm)
    perturbed = attack(victim.model, victim.images, targets, norm=norm, targeted=True)
    assert torch.equal(reached(victim.model, perturbed)[:, 0], targets)
    length = distance(perturbed, victim.images, norm)
    assert (length <= (victim.radii(norm) + 1 if norm == "l0" else 1.05 * victim.radii(norm))).all()


def test_what_cannot_be_fooled_or_need_not_be_comes_back_as_it_was(
    name: str, norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Bit by bit: the image itself where a class is out of reach, and where the image is misclassified already."""
    victim = linear_victim(3)
    attack: Attack = registry.load(name)()
    unmoved = attack(victim.model, victim.images, (victim.labels + 1) % 3, norm=norm)
    assert torch.equal(unmoved, victim.images)

    class Deaf(nn.Module):
        """Class 0 whatever the image shows."""

        def forward(self, images: Tensor) -> Tensor:
            mean = images.flatten(1).mean(1)
            return torch.stack([3 + mean, mean.square()], 1)

    unmoved = attack(Deaf(), victim.images, torch.zeros(24, dtype=torch.int64), norm=norm)
    assert torch.equal(unmoved, victim.images)


def test_of_a_randomized_model_it_fools_nearly_every_fresh_draw(
    name: str, norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Two classes behind noise that moves the boundary by a normal amount: fresh draws are wrong nine times out of ten.

    And not by going far: within the linear distance and four standard deviations of that amount, in units of this norm.
    """
    victim = linear_victim(2)
    sigma = 0.02
    model = NoiseLayer(victim.model, sigma)
    attack: Attack = registry.load(name)()
    torch.manual_seed(0)
    perturbed = attack(model, victim.images, victim.labels, norm=norm, eot=4)
    with torch.no_grad():
        wrong = torch.stack([model(perturbed).argmax(1) != victim.labels for _ in range(200)]).double().mean()
    assert wrong > 0.9
    if norm in ("l2", "linf"):
        weight = victim.model.get_parameter("weight").detach().diff(dim=0)[0]
        # The noise shifts the margin by sigma |w|_2, which a perturbation of this norm makes up for at the dual norm's
        # rate.
        deviation = sigma * weight.norm() / weight.norm(p=1 if norm == "linf" else 2)
        bound = victim.radii(norm) + 4 * deviation
        assert (distance(perturbed, victim.images, norm) < bound).double().mean() > 0.9

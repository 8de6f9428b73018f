from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.fmn import FMN

from ...conftest import Linear, LinearVictim, NoiseLayer


class Trap(nn.Module):
    """Class 1 beyond a boundary that the gradient at the image does not show: its neuron is inactive there."""

    def forward(self, images: Tensor) -> Tensor:
        first, second = images.flatten(1).T
        lead = first - 0.9 + 10 * (0.45 - second).relu()
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize("name", ["fmn", "cw-linf", "fab", "fab-t"])
def test_random_starts_find_what_the_gradient_hides(name: str) -> None:
    """The boundary at 0.4 is found by the attack alone, and that at 0.9 / 11 (closed form) by its restarts only."""
    images, labels = torch.full((8, 1, 1, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    kind = registry.load(name)
    alone, restarted = (
        distance(kind(targeted_restarts=count)(Trap(), images, labels, norm="linf"), images, "linf") for count in (0, 8)
    )
    torch.testing.assert_close(alone, torch.full_like(alone, 0.4), rtol=0.01, atol=0)
    torch.testing.assert_close(restarted, torch.full_like(alone, 0.9 / 11), rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("classes", [2, 6])
def test_of_a_linear_model_every_image_is_moved_to_its_nearest_class(
    norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """By two restarts after twenty steps: the closed-form distance within 1 %, or in l0 within one pixel."""
    victim = linear_victim(classes)
    perturbed = FMN(steps=20, targeted_restarts=2)(victim.model, victim.images, victim.labels, norm=norm)
    assert victim.accuracy(perturbed) == 0
    length, radii = distance(perturbed, victim.images, norm), victim.radii(norm)
    assert (length >= (1 - 1e-5) * radii).all()
    assert (length <= (radii + 1 if norm == "l0" else 1.01 * radii)).all()


def test_towards_a_target_there_is_no_other_class(linear_victim: Callable[..., LinearVictim]) -> None:
    """The label of a targeted threat is reached, at its closed-form distance within 1 %."""
    victim = linear_victim(5)
    targets = victim.nearest("linf")
    perturbed = FMN(steps=20, targeted_restarts=2)(victim.model, victim.images, targets, norm="linf", targeted=True)
    with torch.no_grad():
        assert torch.equal(victim.model(perturbed).argmax(1), targets)
    assert (distance(perturbed, victim.images, "linf") <= 1.01 * victim.radii("linf")).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_of_a_randomized_model_it_fools_nearly_every_fresh_draw(
    norm: Norm, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Many restarts give luck many chances: fresh draws are wrong nine times out of ten all the same."""
    victim = linear_victim(2)
    model = NoiseLayer(victim.model, 0.02)
    perturbed = FMN(steps=30, targeted_restarts=4)(model, victim.images, victim.labels, norm=norm, eot=4)
    with torch.no_grad():
        wrong = torch.stack([model(perturbed).argmax(1) != victim.labels for _ in range(200)]).double().mean()
    assert wrong > 0.9


@pytest.mark.parametrize("randomized", [False, True])
def test_classes_in_one_batch_give_what_they_give_in_turn(
    randomized: bool, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Bit by bit, also of a randomized model, whose draws belong to the images and their classes."""
    victim = linear_victim(6)
    assert isinstance(victim.model, Linear)
    model = NoiseLayer(victim.model, 0.01) if randomized else victim.model
    attack = FMN(steps=8, targeted_restarts=2)
    together, in_turn = (
        attack(model, victim.images, victim.labels, norm="l2", eot=1, batch_size=rows) for rows in (None, 24)
    )
    assert torch.equal(together, in_turn)


@pytest.mark.parametrize(("norm", "restarts"), [("linf", 5 * (20 + 2 * 10)), ("l1", 5 * 40 + 3 * 2 * 20)])
def test_passes_are_counted(norm: Norm, restarts: int, linear_victim: Callable[..., LinearVictim]) -> None:
    """Of six classes, gradients of all logits once, those of three restarts, and 45 of the polish."""
    victim = linear_victim(6)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm=norm, eps=torch.full((24,), torch.inf, dtype=torch.float64))
    FMN(steps=7, targeted_restarts=3).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert source.backwards == 24 * (7 + 6 + restarts + 45)

"""What all Auto-PGD attacks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.apgd_ce import APGDCE
from robustbench_cli.attacks.apgd_dlr import APGDDLR
from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD

from .conftest import LinearVictim, Victim

KINDS = [APGDCE, APGDDLR, APGDT]
NORMS: list[Norm] = ["linf", "l2", "l1"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targeted", [True, False])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    kind: type[APGD], norm: Norm, linear_victim: Callable[..., LinearVictim], *, targeted: bool
) -> None:
    """Of a linear model with two classes every image is right below its distance, and wrong above; in l1 a tenth above."""
    victim = linear_victim(2)
    goals = 1 - victim.labels if targeted else victim.labels
    for factor, accuracy in ((0.999, 1), (1.1 if norm == "l1" else 1.001, 0)):
        eps = factor * victim.radii(norm)
        perturbed = kind()(victim.model, victim.images, goals, norm=norm, eps=eps, targeted=targeted)
        assert victim.accuracy(perturbed) == accuracy


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 6])
def test_the_nearest_class_is_reached_just_beyond_the_closed_form_distance(
    kind: type[APGD], norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """A target is reached just beyond its distance and not before; so is, of all classes, the nearest by apgd-t.

    In l1 a step that is spread over several pixels needs up to a fifth more.
    """
    victim = linear_victim(classes)
    targets = victim.nearest(norm)
    for factor, reached in ((0.999, 0), (1.2 if norm == "l1" else 1.05, 1)):
        eps = factor * victim.radii(norm)
        perturbed = kind()(victim.model, victim.images, targets, norm=norm, eps=eps, targeted=True)
        assert (victim.model(perturbed).argmax(1) == targets).double().mean() == reached
        if kind is APGDT:
            perturbed = kind()(victim.model, victim.images, victim.labels, norm=norm, eps=eps)
            assert victim.accuracy(perturbed) == 1 - reached


@pytest.mark.parametrize("norm", NORMS)
def test_passes_are_paid_for_standing_images_only(norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """A gradient a step and one last pass; a restart and each further target only for what still stands."""
    victim = linear_victim(3)

    def cost(attack: APGD, factors: Tensor) -> tuple[float, float]:
        source = EOT(victim.model.requires_grad_(False))
        threat = Threat(norm=norm, eps=victim.radii(norm).double() * factors)
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        return source.forwards, source.backwards

    none = torch.full((24,), 0.5)
    assert cost(APGDCE(steps=10), none) == (24 * 11, 24 * 10)
    assert cost(APGDCE(steps=10, restarts=3), none) == (3 * 24 * 11, 3 * 24 * 10)
    assert cost(APGDT(steps=10), none) == (24 + 2 * 24 * 11, 2 * 24 * 10)
    assert cost(APGDT(steps=10, n_target_classes=1, restarts=2), none) == (24 + 2 * 24 * 11, 2 * 24 * 10)
    easy = torch.where(torch.arange(24) < 18, 5.0, 0.5)
    forwards, backwards = cost(APGDT(steps=40), easy)
    hard = 6 * 2 * 40
    assert hard < backwards < hard + (0.8 if norm == "l1" else 0.25) * 18 * 2 * 40
    assert forwards < 24 + 1.1 * backwards


class Scaled(nn.Module):
    """Another's logits, scaled and shifted."""

    def __init__(self, model: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.model, self.scale, self.shift = model, scale, shift

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * self.scale + self.shift


@pytest.mark.parametrize(
    ("kind", "scale", "shift"),
    [
        (APGDCE, 2.0**20, 0.0),
        (APGDCE, 1.0, -1000.0),
        (APGDDLR, 2.0**20, 0.0),
        (APGDDLR, 2.0**-20, 0.0),
        (APGDT, 2.0**20, 0.0),
        (APGDT, 2.0**-20, 0.0),
    ],
)
def test_the_range_of_the_logits_does_not_matter(
    kind: type[APGD], scale: float, shift: float, digits_victim: Victim
) -> None:
    """Where the softmax saturates, the logits are far from 0, or for the ratios where it is flat, as many images fall."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    accuracies = [
        digits_victim.accuracy(kind(steps=10)(victim, images, labels, eps=0.1))
        for victim in (model, Scaled(model, scale, shift))
    ]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=2 / 60)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6), ("l1", 3.0)])
def test_it_leaves_no_more_than_pgd(norm: Norm, eps: float, digits_victim: Victim) -> None:
    """With as many steps: the cross-entropy's and the targeted one leave no more images right than PGD, but for one."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels

    def left(attack: APGD | PGD) -> float:
        return digits_victim.accuracy(attack(model, images, labels, norm=norm, eps=eps))

    constant = left(PGD(steps=30, step_size=eps / 10))
    assert 0 < constant < 1
    assert left(APGDCE(steps=30)) <= constant + 1 / 60
    assert left(APGDT(steps=30)) <= constant

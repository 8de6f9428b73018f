from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.cw import CW

from .conftest import Linear, LinearVictim, Victim

QUICK = CW(steps=100)


def of_closed_form(perturbed: Tensor, victim: LinearVictim) -> Tensor:
    """``(N,)`` distances, over the closed-form one to the class that each image has reached."""
    with torch.no_grad():
        reached = victim.model(perturbed).argmax(1, keepdim=True)
    return distance(perturbed, victim.images, "l2") / victim.distances("l2").gather(1, reached)[:, 0]


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_it_finds_the_closed_form_distance(classes: int, linear_victim: Callable[..., LinearVictim]) -> None:
    """Of a linear model every image falls, at the distance to its new class to 1 %, and nearly all into the nearest one.

    The nearest class need not be the one with the largest logit, so that of three classes a descent can miss it.
    """
    victim = linear_victim(classes)
    perturbed = CW()(victim.model, victim.images, victim.labels)
    assert victim.accuracy(perturbed) == 0
    assert (of_closed_form(perturbed, victim) - 1).abs().max() < 0.01
    missed = distance(perturbed, victim.images, "l2") / victim.radii("l2")
    assert missed.min() >= 1 - 1e-5
    assert (missed < 1.01).double().mean() >= (1 if classes == 2 else 0.9)


@pytest.mark.parametrize("classes", [2, 5])
def test_it_finds_the_closed_form_distance_to_a_target(
    classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """A target that is the nearest class is reached within 5 % of its distance."""
    victim = linear_victim(classes)
    targets = victim.nearest("l2")
    perturbed = CW()(victim.model, victim.images, targets, targeted=True)
    assert torch.equal(victim.model(perturbed).argmax(1), targets)
    ratio = distance(perturbed, victim.images, "l2") / victim.radii("l2")
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() < 1.05


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -100.0), (1.0, 1e4), (1e-3, 0.0), (1e3, 0.0), (1e-6, 0.0)])
def test_the_range_of_the_logits_does_not_matter(
    scale: float, shift: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """Shifted and scaled logits are fooled as those are that they come from, at the same distance."""
    victim = linear_victim(4, scale=scale, shift=shift)
    perturbed = QUICK(victim.model, victim.images, victim.labels)
    assert victim.accuracy(perturbed) == 0
    assert (of_closed_form(perturbed, victim) - 1).abs().max() < 0.02


def test_a_larger_confidence_costs_distance(linear_victim: Callable[..., LinearVictim]) -> None:
    """Misclassified by the margin that was asked for, at the closed-form distance for it."""
    victim = linear_victim(2)
    weight = victim.model.weight.detach()
    slope = (weight[0] - weight[1]).norm()
    for confidence in (1.0, 4.0):
        perturbed = CW(confidence=confidence)(victim.model, victim.images, victim.labels)
        logits = victim.model(perturbed).detach()
        lead = logits.diff(dim=1)[:, 0] * (1 - 2 * victim.labels)
        assert (lead >= confidence).all()
        expected = victim.radii("l2") + confidence / slope
        assert (distance(perturbed, victim.images, "l2") < 1.05 * expected).all()


def test_pixels_at_the_edge_of_the_box_are_moved() -> None:
    """Where every pixel is exactly 0 or 1, the closed-form distance is found, and every pixel moved in proportion."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(2, (5, 1, 6, 6), generator=generator).float()
    for image in images:
        # Away from the edge, each at a slope of its own: the class changes where the slope's length times d is 2.
        slope = (1 - 2 * image.flatten()) * (1 + 5 * torch.rand(36, generator=generator))
        model = Linear(
            torch.stack([torch.zeros(36), slope]), torch.tensor([0.0, -2 - (slope @ image.flatten()).item()])
        )
        perturbed = CW()(model, image[None], torch.tensor([0]))
        assert model(perturbed).argmax(1) == 1
        expected = image + 2 * (slope / slope.square().sum()).view(1, 6, 6)
        torch.testing.assert_close(perturbed[0], expected, rtol=0, atol=1e-3)
        assert distance(perturbed, image[None], "l2").item() == pytest.approx(2 / slope.norm().item(), rel=0.01)


class Blocked(nn.Module):
    """Class 1 needs a mean that no image of the box has."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([1.5 - mean, mean - 0.5], 1)


def test_what_cannot_be_fooled_comes_back_as_it_was() -> None:
    """No success is claimed where there is none, and no black image returned."""
    images = torch.rand(3, 1, 3, 3)
    assert torch.equal(QUICK(Blocked(), images, torch.zeros(3, dtype=torch.int64)), images)


def test_what_is_wrong_already_comes_back_as_it_was(linear_victim: Callable[..., LinearVictim]) -> None:
    """The distance of a misclassified image is 0, at the price of one gradient."""
    victim = linear_victim(3)
    wrong = (victim.labels + 1) % 3
    assert torch.equal(QUICK(victim.model, victim.images, wrong), victim.images)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    QUICK.run(source, victim.images, wrong, threat, Random.of(0, victim.images))
    assert (source.forwards, source.backwards) == (24, 24)


def test_passes_are_counted(linear_victim: Callable[..., LinearVictim]) -> None:
    """A gradient at the image, one a step and two at the end; with early stops, fewer, at a distance that is hardly larger."""
    victim = linear_victim(3)
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    found = []
    for attack in (CW(steps=50, abort_early=False), CW(steps=50)):
        source = EOT(victim.model.requires_grad_(False))
        perturbed = attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        found.append((source.backwards, distance(perturbed, victim.images, "l2").mean().item()))
    (whole, shortest), (early, length) = found
    assert whole == 24 * (1 + 5 * 50 + 2)
    assert early < 0.7 * whole
    assert length < 1.02 * shortest


def test_an_early_stop_is_an_images_own(digits_victim: Victim) -> None:
    """Beside images of which some stop early and some do not, an image is found what it is found alone."""
    images, labels = digits_victim.images[:12].double(), digits_victim.labels[:12]
    model = digits_victim.model.double()
    try:
        attack = CW(steps=30)
        together = attack(model, images, labels)
        alone = torch.cat(
            [attack(model, image[None], label[None]) for image, label in zip(images, labels, strict=True)]
        )
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    finally:
        model.float()

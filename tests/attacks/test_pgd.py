from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.pgd import PGD

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("targeted", [True, False])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    norm: Norm, linear_victim: Callable[..., LinearVictim], *, random_start: bool, targeted: bool
) -> None:
    """Of a linear model with two classes every image, with a radius of its own, is right below its distance, wrong above."""
    victim = linear_victim(2)
    goals = 1 - victim.labels if targeted else victim.labels
    attack = PGD(random_start=random_start)
    for factor, accuracy in ((0.999, 1), (1.001, 0)):
        eps = factor * victim.radii(norm)
        perturbed = attack(victim.model, victim.images, goals, norm=norm, eps=eps, targeted=targeted)
        assert victim.accuracy(perturbed) == accuracy


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [3, 6])
def test_the_nearest_class_is_reached_just_beyond_the_closed_form_distance(
    norm: Norm, classes: int, linear_victim: Callable[..., LinearVictim]
) -> None:
    """The logarithm of a target's probability is concave on a linear model: the target is found, and not too soon."""
    victim = linear_victim(classes)
    targets = victim.nearest(norm)
    for factor, reached in ((0.999, 0), (1.05, 1)):
        eps = factor * victim.radii(norm)
        perturbed = PGD()(victim.model, victim.images, targets, norm=norm, eps=eps, targeted=True)
        assert (victim.model(perturbed).argmax(1) == targets).double().mean() == reached


@pytest.mark.parametrize("random_start", [True, False])
def test_in_l1_two_classes_fall_beyond_the_closed_form_distance(
    linear_victim: Callable[..., LinearVictim], *, random_start: bool
) -> None:
    """With the largest weights first and each to the box, every image is right below its distance, and wrong a tenth above."""
    victim = linear_victim(2)
    attack = PGD(random_start=random_start)
    for factor, accuracy in ((0.999, 1), (1.1, 0)):
        eps = factor * victim.radii("l1")
        perturbed = attack(victim.model, victim.images, victim.labels, norm="l1", eps=eps)
        assert victim.accuracy(perturbed) == accuracy


def test_passes_are_paid_for_standing_images_only(linear_victim: Callable[..., LinearVictim]) -> None:
    """An image that cannot fall costs a gradient a step and a last pass; one that falls at the start costs one gradient."""
    victim = linear_victim(2)

    def cost(factors: Tensor, **parameters: int) -> tuple[float, float]:
        source = EOT(victim.model.requires_grad_(False))
        threat = Threat(norm="linf", eps=victim.radii("linf").double() * factors)
        attack = PGD(random_start=False, **parameters)
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        return source.forwards, source.backwards

    none = torch.zeros(24)
    assert cost(none, steps=10) == (24 * 11, 24 * 10)
    assert cost(none, steps=10, restarts=3) == (3 * 24 * 11, 3 * 24 * 10)
    # A first step of twice the radius takes those with the larger radius to its corner: they leave at the second
    # gradient.
    some = torch.where(torch.arange(24) < 18, 1.1, 0.0)
    assert cost(some, steps=10) == (24 + 24 + 6 * 9, 24 + 24 + 6 * 8)
    assert cost(some, steps=10, restarts=2) == (24 + 24 + 6 * 9 + 6 * 11, 24 + 24 + 6 * 8 + 6 * 10)
    victim.model.bias.data.neg_()
    try:
        wrong = (victim.model(victim.images).argmax(1) != victim.labels).sum().item()
        assert wrong > 5
        assert cost(none, steps=1) == (24 + (24 - wrong), 24)
    finally:
        victim.model.bias.data.neg_()


class Bowl(nn.Module):
    """Class 1 inside a small ball around one corner of the cube, with a gradient that only shows the way near it."""

    def forward(self, images: Tensor) -> Tensor:
        away = (images.flatten(1) - 0.6).square().sum(1)
        return torch.stack([torch.full_like(away, 0.5), (-200 * away).exp()], 1)


def test_every_restart_starts_elsewhere() -> None:
    """Where one start in a few finds the way, more starts find it for more images, and none that fell is lost."""
    images, labels = torch.full((400, 1, 1, 2), 0.5), torch.zeros(400, dtype=torch.int64)
    shares = []
    for restarts in (1, 2, 8):
        attack = PGD(steps=1, step_size=1e-6, restarts=restarts)
        perturbed = attack(Bowl(), images, labels, eps=0.3)
        shares.append((Bowl()(perturbed).argmax(1) == 1).double().mean().item())
    one, two, eight = shares
    # Starts are independent: what one misses with probability q, r of them miss with q ** r (four standard errors).
    assert 0.02 < one < 0.2
    for restarts, share in ((2, two), (8, eight)):
        expected = 1 - (1 - one) ** restarts
        error = 4 * (expected * (1 - expected) / 400) ** 0.5 + 4 * restarts * (one * (1 - one) / 400) ** 0.5
        assert abs(share - expected) < error
    assert one < two < eight


def test_an_image_draws_the_same_starts_whatever_falls_beside_it() -> None:
    """What a later call draws for an image does not depend on how many restarts its batch mates needed."""
    images = torch.full((6, 1, 1, 2), 0.5)
    threat = Threat(norm="linf", eps=torch.full((6,), 0.3, dtype=torch.float64))
    attack = PGD(steps=1, step_size=1e-6, restarts=3)
    drawn = []
    for labels in (torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)):
        random = Random.of(0, images)
        attack.run(EOT(Bowl()), images, labels, threat, random)
        drawn.append(random.uniform((2,)))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_size_is_what_it_says(norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """Given, every step has that length; not given, steps fall evenly from twice the radius to 0."""
    victim = linear_victim(2)
    lengths: list[float] = []

    class Watching(EOT):
        def gradient(self, images: Tensor, labels: Tensor, loss: object) -> tuple[Tensor, Tensor]:
            lengths.append(distance(images, victim.images, norm)[0].item())
            return super().gradient(images, labels, loss)

    threat = Threat(norm=norm, eps=0.5 * victim.radii(norm).double())
    for step_size in (float(threat.eps.min()) / 20, None):
        lengths.clear()
        attack = PGD(steps=5, step_size=step_size, random_start=False)
        source = Watching(victim.model.requires_grad_(False))
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        eps = threat.eps[0].item()
        expected = [0, eps, eps, eps, eps] if step_size is None else [count * step_size for count in range(5)]
        assert lengths == pytest.approx(expected, rel=1e-3)
    assert PGD(steps=4)._step_factors(victim.images).tolist() == [2, 1.5, 1, 0.5]


class Paths(nn.Module):
    """One of three linear models a row, which can be enumerated; the exact expectation sees all of them."""

    number_of_draws = 3
    cost_of_all_draws = 2.0

    def __init__(self, victim: LinearVictim) -> None:
        super().__init__()
        self.model = victim.model

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images) + torch.tensor([shift, -shift]) for shift in (-0.3, 0.0, 0.3)])

    def forward(self, images: Tensor) -> Tensor:
        return self.all_draws(images)[torch.randint(3, (len(images),)), torch.arange(len(images))]


def test_with_all_draws_known_every_one_is_fooled_where_that_is_possible(
    linear_victim: Callable[..., LinearVictim],
) -> None:
    """Beyond the distance of the most robust draw no draw is right, and images leave the batch: the exact source pays less."""
    victim = linear_victim(2)
    model = Paths(victim)
    with torch.no_grad():
        hardest = (model.all_draws(victim.images).diff(dim=2).abs().amax(0)[:, 0]).double()
        weight = victim.model.weight
        dual = (weight[0] - weight[1]).abs().sum().double()
    source = ExactExpectation(model.requires_grad_(False))
    threat = Threat(norm="linf", eps=1.01 * hardest / dual)
    perturbed = PGD().run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert (model.all_draws(perturbed).argmax(2) != victim.labels).all()
    assert source.backwards < 2.0 * 24 * 40 / 2


def test_more_steps_and_restarts_leave_less(digits_victim: Victim) -> None:
    """A ladder of strength: one step, ten, forty, and forty from five starts; each as strong as the one before it."""
    ladder = [PGD(steps=1), PGD(steps=10), PGD(steps=40), PGD(steps=40, restarts=5)]
    accuracies = [
        digits_victim.accuracy(attack(digits_victim.model, digits_victim.images, digits_victim.labels, eps=0.12))
        for attack in ladder
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_iterates_are_those_of_a_plain_loop(norm: Norm, digits_victim: Victim, *, targeted: bool) -> None:
    """Step by step, on images that do not fall: torch's loss in float64, its sign or unit vector, and a clip."""
    images, labels = digits_victim.images, digits_victim.labels
    goals = (labels + 1) % 10 if targeted else labels
    eps, steps = 0.003, 6
    offered: list[Tensor] = []

    class Watching(EOT):
        def gradient(self, images: Tensor, labels: Tensor, loss: object) -> tuple[Tensor, Tensor]:
            offered.append(images)
            return super().gradient(images, labels, loss)

    threat = Threat(norm=norm, eps=torch.full((60,), eps, dtype=torch.float64), targeted=targeted)
    model = digits_victim.model.requires_grad_(False)
    PGD(steps=steps, random_start=False).run(Watching(model), images, goals, threat, Random.of(0, images))
    point = images
    for step in range(steps):
        torch.testing.assert_close(offered[step], point, rtol=0, atol=1e-6)
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf).double(), goals), leaf)
        move = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = point + (-1 if targeted else 1) * 2 * eps * (1 - step / steps) * move - images
        length = change.abs() if norm == "linf" else change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        point = (images + change * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)
    assert len(offered) == steps

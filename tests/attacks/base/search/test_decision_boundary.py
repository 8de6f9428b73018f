from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.decision_boundary import DecisionBoundary
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.surfree import SurFree

from ...conftest import Linear, LinearVictim, NoisyLogits


def boundary_around(victim: LinearVictim, norm: Any = "l2") -> DecisionBoundary:
    """The decision boundary around the images of a victim."""
    eps = torch.full((len(victim.images),), torch.inf, dtype=torch.float64)
    threat = Threat(norm=norm, eps=eps, targeted=False)
    return DecisionBoundary(
        gradient_source(victim.model, randomized=False), victim.images, victim.labels, threat, attack="test"
    )


def test_the_normal_is_as_near_as_the_number_of_samples_allows(linear_victim: Callable[..., LinearVictim]) -> None:
    """The mean of n signed normal vectors in d dimensions has a closed form.

    Each has ``sqrt(2 / pi)`` along the normal of a plane on average, and noise of variance 1 in each of the other directions. So
    the cosine between the mean and the normal is about ``1 / sqrt(1 + (d - 1) pi / (2 n))``.
    """
    victim = linear_victim(2)
    assert isinstance(victim.model, Linear)
    boundary = boundary_around(victim)
    points, reached = boundary.start(Random.of(0, victim.images))
    assert reached.all()
    weight = victim.model.weight.detach()
    towards = weight[1 - victim.labels] - weight[victim.labels]
    size, samples = towards.shape[1], 400
    estimated = boundary.normal(points, samples, Random.of(1, victim.images)).flatten(1)
    expected = 1 / math.sqrt(1 + (size - 1) * math.pi / (2 * samples))
    assert cosine_similarity(estimated, towards).mean().item() == pytest.approx(expected, abs=0.02)
    assert boundary.queries > samples


def test_a_start_lies_on_the_boundary(linear_victim: Callable[..., LinearVictim]) -> None:
    """A thousandth of the way nearer to the image, the label is back."""
    victim = linear_victim(3)
    boundary = boundary_around(victim)
    points, reached = boundary.start(Random.of(0, victim.images))
    assert reached.all()
    assert victim.accuracy(points) == 0
    assert victim.accuracy(victim.images + 0.999 * (points - victim.images)) == 1


class Uncertain(nn.Module):
    """Class 0 below a mean of 0.3, class 1 above 0.38, and between them class 1 in 30 % of the draws."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.flatten(1).mean(1)
        is_one = (means > 0.38) | ((means > 0.3) & (torch.rand(len(means)) < 0.3))
        return torch.stack([~is_one, is_one], 1).float()


def test_a_start_that_every_draw_takes_for_another_class_is_kept() -> None:
    """Bisection ends where few draws reach the goal. The start behind it is adversarial in every draw."""
    images, labels = torch.zeros(16, 3, 16, 16), torch.zeros(16, dtype=torch.int64)
    threat = Threat(norm="l2", eps=torch.full((16,), torch.inf, dtype=torch.float64), targeted=False)
    torch.manual_seed(0)
    source = gradient_source(Uncertain(), randomized=True)
    boundary = DecisionBoundary(source, images, labels, threat, attack="test")
    points, _ = boundary.start(Random.of(0, images))
    assert (points.flatten(1).mean(1) < 0.34).any()
    assert (boundary.best.flatten(1).mean(1) > 0.38).all()


def test_points_between_are_on_a_line_in_l2_and_clipped_in_linf(linear_victim: Callable[..., LinearVictim]) -> None:
    """In linf, half of the way clips the changes at half of the largest one."""
    victim = linear_victim(2)
    outside = Random.of(0, victim.images).uniform(victim.images.shape[1:])
    half = torch.full((len(outside), 1), 0.5)
    change = outside - victim.images
    in_l2 = boundary_around(victim, "l2").at(outside, half).squeeze(1) - victim.images
    torch.testing.assert_close(in_l2, change / 2)
    limit = change.abs().amax((1, 2, 3), keepdim=True) / 2
    in_linf = boundary_around(victim, "linf").at(outside, half).squeeze(1) - victim.images
    torch.testing.assert_close(in_linf, torch.minimum(change, limit).maximum(-limit))


def test_lucky_draws_do_not_lead_a_walk_away(linear_victim: Callable[..., LinearVictim]) -> None:
    """With noise of a tenth of the gap between two logits, a walk goes on from points that fooled every draw several times."""
    victim = linear_victim(2)
    gaps = victim.model(victim.images).detach().topk(2).values
    noisy = NoisyLogits(victim.model, 0.1 * float((gaps[:, 0] - gaps[:, 1]).median()))
    perturbed = SurFree(queries=500)(noisy, victim.images, victim.labels, norm="l2")
    ratio = distance(perturbed, victim.images, "l2") / victim.radii("l2")
    assert 1 < ratio.median() < 3.5

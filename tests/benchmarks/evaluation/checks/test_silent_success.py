from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate

IMAGES, LABELS = torch.full((200, 1, 1, 1), 0.5), torch.zeros(200, dtype=torch.int64)


class Valley(nn.Module):
    """Two classes by one pixel: class 1 between 0.42 and 0.44 alone."""

    def forward(self, images: Tensor) -> Tensor:
        lead = (images.flatten(1)[:, 0] - 0.43).abs() - 0.01
        return torch.stack([lead, -lead], 1)


class Passing(FixedRadiusAttack):
    """Queries these points for the first images, and returns the last one."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    points: tuple[float, ...]
    count: int = 200
    by_one: bool = False

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        perturbed = images.clone()
        for point in self.points:
            perturbed[: self.count] = point
            for part in perturbed.split(1) if self.by_one else (perturbed,):
                source.logits(part)
        return perturbed


def evaluated(attack: FixedRadiusAttack, eps: float = 0.1, model: nn.Module | None = None) -> Evaluation:
    """The evaluation of an attack."""
    return evaluate(model or Valley(), IMAGES, LABELS, attack=attack, eps=eps)


@pytest.mark.parametrize(
    ("points", "count", "raised"),
    [
        ((0.43, 0.41), 200, True),
        ((0.43, 0.41), 2, True),
        ((0.43, 0.41), 1, False),
        ((0.41, 0.43), 200, False),
        ((0.46, 0.41), 200, False),
    ],
)
def test_a_success_that_is_not_returned_is_flagged(points: tuple[float, ...], count: int, raised: bool) -> None:
    """From 2 of 200 images on; not where the success is returned or where there is none."""
    found = evaluated(Passing(points=points, count=count))
    assert ("silent-success" in found.flags) == raised
    assert found.summary["robust_accuracy"] == (0 if points[-1] == 0.43 else 1)


@pytest.mark.parametrize(("lost", "raised"), [((1,), False), ((2,), False), ((1, 2), True)])
def test_a_success_that_another_target_returns_is_not_lost(lost: tuple[int, ...], raised: bool) -> None:
    """The row counts the worst image of all targets."""

    class Valleys(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images.flatten(1)[:, 0]
            return torch.stack([0 * pixel, 0.01 - (pixel - 0.43).abs(), 0.01 - (pixel - 0.57).abs()], 1)

    class Losing(FixedRadiusAttack):
        norms: ClassVar[tuple[Norm, ...]] = ("linf",)

        def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
            success = torch.full_like(images, 0.43 if labels[0] == 1 else 0.57)
            source.logits(success)
            return images + 0.03 if int(labels[0]) in lost else success

    found = evaluate(Valleys(), IMAGES, LABELS, attack=Losing(), eps=0.1, targeted="all")
    assert ("silent-success" in found.flags) == raised


def test_a_success_outside_of_the_ball_is_none() -> None:
    """At a radius of 0.05."""
    assert "silent-success" not in evaluated(Passing(points=(0.43, 0.46)), eps=0.05).flags


def test_queries_of_other_batches_are_not_assigned() -> None:
    """Which image they belong to is not known."""
    assert "silent-success" not in evaluated(Passing(points=(0.43, 0.41), by_one=True)).flags


def test_an_attack_that_keeps_its_best_iterate_loses_nothing() -> None:
    """PGD passes the valley with its first step and returns what it found there."""
    found = evaluated(PGD(steps=3, step_size=0.07, random_start=False))
    assert (found.summary["robust_accuracy"], found.flags) == (0, ())


def test_a_lucky_draw_is_no_success() -> None:
    """Of a randomized model."""

    class Noisy(Valley):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.001 * torch.randn_like(images))

    assert "silent-success" not in evaluated(Passing(points=(0.43, 0.41)), model=Noisy()).flags


def test_the_last_iterate_of_another_library() -> None:
    """Torchattacks' PGD, whose steps of 0.065 meet the valley at once and leave it."""
    from robustbench_cli.attacks import registry

    attack = registry.load("torchattacks:PGD")(alpha=0.065, steps=2, random_start=False)
    found = evaluated(attack)
    assert "silent-success" in found.flags
    assert found.summary["robust_accuracy"] == 1

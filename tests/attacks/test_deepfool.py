from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.deepfool import DeepFool

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_one_step_solves_a_linear_model(norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """A linear boundary is its own linearization: one step ends at the closed-form distance of the nearest class."""
    victim = linear_victim(6)
    perturbed = DeepFool(steps=1)(victim.model, victim.images, victim.labels, norm=norm)
    assert torch.equal(victim.model(perturbed).argmax(1), victim.nearest(norm))
    torch.testing.assert_close(distance(perturbed, victim.images, norm).float(), victim.radii(norm), rtol=1e-3, atol=0)


def test_only_the_candidates_are_considered(linear_victim: Callable[..., LinearVictim]) -> None:
    """With one candidate, every image ends in the class with the second-largest logit, if in any other."""
    victim = linear_victim(6)
    perturbed = DeepFool(steps=1, candidates=1)(victim.model, victim.images, victim.labels, norm="l2")
    second = victim.model(victim.images).topk(2).indices[:, 1]
    predicted = victim.model(perturbed).argmax(1)
    assert (predicted == second).double().mean() > 0.8
    assert not torch.equal(second, victim.nearest("l2"))


def test_a_broken_image_takes_no_more_steps(linear_victim: Callable[..., LinearVictim]) -> None:
    """On a linear model one step suffices, and a second one finds that all images are broken: no more gradients follow."""
    victim = linear_victim(2)
    backwards = []
    for steps in (2, 50):
        source = EOT(victim.model.requires_grad_(False))
        threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
        DeepFool(steps=steps).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        backwards.append(source.backwards)
    assert backwards[0] == backwards[1]

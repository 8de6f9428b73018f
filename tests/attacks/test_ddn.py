from __future__ import annotations

import math
from collections.abc import Callable

import torch

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.ddn import DDN

from .conftest import LinearVictim, Victim


def test_a_step_costs_one_gradient(linear_victim: Callable[..., LinearVictim]) -> None:
    """Every step takes one gradient of every image."""
    victim = linear_victim(3)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="l2", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    DDN(steps=7).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert source.backwards == 24 * 7


def test_a_large_gamma_is_coarse(digits_victim: Victim) -> None:
    """The norm changes by the factor ``1 - gamma``, so that a large gamma ends farther from the boundary."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    fine, coarse = (
        distance(DDN(steps=50, gamma=gamma)(model, images, labels, norm="l2"), images, "l2").mean()
        for gamma in (0.05, 0.8)
    )
    assert fine < coarse


def test_it_takes_the_steps_of_the_paper(linear_victim: Callable[..., LinearVictim]) -> None:
    """Algorithm 1 as a plain loop over the images of a linear model with two classes, by formulas of its own."""
    victim = linear_victim(2)
    perturbed = DDN(steps=30)(victim.model, victim.images, victim.labels)
    weight, bias = victim.model.get_parameter("weight").double(), victim.model.get_parameter("bias").double()
    for image, label, result in zip(victim.images.double(), victim.labels, perturbed, strict=True):
        clean = image.flatten()
        normal, offset = weight[label] - weight[1 - label], bias[label] - bias[1 - label]
        change, norm, best = torch.zeros(36, dtype=torch.float64), 0.0, None
        for step in range(31):
            margin = normal @ (clean + change) + offset
            if margin < 0 and (best is None or change.norm() < best.norm()):
                best = change
            if step:
                norm *= 0.95 if margin < 0 else 1.05
            else:
                norm = (margin / normal.norm()).item()
            length = 4 * norm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / 30)))
            change = change - length * normal / normal.norm()
            change = norm * change / change.norm()
        assert best is not None
        # What follows shortens the perturbation along its line. The goal is beyond the boundary by the tolerance.
        shorter = (result.double().flatten() - clean).norm()
        assert shorter <= best.norm() * (1 + 1e-3)
        assert torch.cosine_similarity(result.double().flatten() - clean, best, dim=0) > 0.9999

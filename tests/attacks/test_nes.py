from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.finite_differences import estimated_gradient
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.nes import NES

from .conftest import LinearVictim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hardly_more_than_the_exact_distance_is_enough(norm: str, linear_victim: Callable[..., LinearVictim]) -> None:
    """The estimates of the gradient lead to the boundary in both norms."""
    linear_victim(2).assert_falls_beyond_the_boundary(NES(), norm, 1.05)


def test_estimates_point_along_the_gradient(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of P random directions in d dimensions, the estimate's cosine with the gradient is about (P / (P + d)) ** 0.5."""
    victim = linear_victim(2)
    random = Random.of(0, victim.images)
    source = gradient_source(victim.model, randomized=False)
    with torch.no_grad():
        estimate = estimated_gradient(
            source, victim.images, victim.labels, (random.normal((20, 1, 6, 6)) for _ in range(20)), 1e-3
        )
        weight = victim.model.weight
        exact = (weight[1 - victim.labels] - weight[victim.labels]).view_as(estimate)
        cosine = torch.cosine_similarity(estimate.flatten(1), exact.flatten(1))
    expected = (400 / (400 + 36)) ** 0.5
    assert abs(cosine.mean() - expected) < 0.02

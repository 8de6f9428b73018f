from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from scipy import fft
from torch import Tensor

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.simba import SimBA

from .conftest import LinearVictim


def directions(victim: LinearVictim) -> Tensor:
    """``(24, 1, 6, 6)``, float64: the gradient of the loss of a linear model with two classes, up to its length."""
    weight = victim.model.get_parameter("weight").detach().double()
    return (weight[1 - victim.labels] - weight[victim.labels]).view_as(victim.images)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_each_basis_vector_moves_in_the_direction_of_its_slope(
    basis: Literal["pixel", "dct"], linear_victim: Callable[..., LinearVictim]
) -> None:
    """Exactly one step along each, with one query for a step down and two for a step up: one query less leaves the last one out."""
    victim = linear_victim(2)
    slopes = directions(victim)
    signs = (
        slopes.sign() if basis == "pixel" else torch.tensor(fft.dctn(slopes.numpy(), axes=(2, 3), norm="ortho")).sign()
    )
    moves = signs if basis == "pixel" else torch.tensor(fft.idctn(signs.numpy(), axes=(2, 3), norm="ortho"))
    step = 1e-4  # so small that no image falls
    queries = 1 + int((36 + (signs > 0).flatten(1).sum(1)).amax())

    def perturbed(queries: int) -> Tensor:
        attack = SimBA(queries=queries, step_size=step, basis=basis, frequencies=1)
        return attack(victim.model, victim.images, victim.labels, norm="linf", eps=0.2)

    last = (36 + (signs > 0).flatten(1).sum(1)) == queries - 1
    expected = victim.images + step * moves
    torch.testing.assert_close(perturbed(queries)[last].double(), expected[last], rtol=0, atol=2e-6)
    short = (perturbed(queries - 1)[last] - expected[last]).abs().flatten(1).amax(1)
    assert (short > 1e-5).all()


def test_a_radius_below_the_distance_of_the_boundary_is_used_up(linear_victim: Callable[..., LinearVictim]) -> None:
    """In linf the image moves by eps in each pixel: all images fall beyond their distance, and none below it."""
    linear_victim(2).assert_falls_beyond_the_boundary(SimBA(queries=100), "linf", 1.001)


def test_the_budget_is_kept_and_no_gradient_is_taken(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of each image that does not fall, queries are counted one by one."""
    victim = linear_victim(3)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="l2", eps=torch.full((24,), 1e-3, dtype=torch.float64))
    SimBA(queries=57).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert (source.forwards, source.backwards) == (57 * 24, 0)


def test_the_basis_has_the_lowest_frequencies_only(linear_victim: Callable[..., LinearVictim]) -> None:
    """A third of six frequencies along each axis are two: the perturbation has no others."""
    victim = linear_victim(2)
    attack = SimBA(queries=40, step_size=1e-3, basis="dct", frequencies=1 / 3)
    perturbed = attack(victim.model, victim.images, victim.labels, norm="l2", eps=1e-2)
    spectrum = fft.dctn((perturbed - victim.images).double().numpy(), axes=(2, 3), norm="ortho")
    assert abs(spectrum[:, :, 2:]).max() < 1e-6
    assert abs(spectrum[:, :, :, 2:]).max() < 1e-6
    assert (abs(spectrum[:, :, :2, :2]) > 1e-4).all()

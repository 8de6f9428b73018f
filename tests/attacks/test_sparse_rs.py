from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robustbench_cli.attacks.sparse_rs import SparseRS

from .conftest import LinearVictim


def test_little_more_than_the_exact_distance_is_enough(linear_victim: Callable[..., LinearVictim]) -> None:
    """With a fifth more pixels than the closed form needs all images are broken; with one pixel less than it none is."""
    victim = linear_victim(2)
    radii = victim.radii("l0").double()
    attack = SparseRS(queries=1500)
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, eps=(1.2 * radii).ceil())) == 0
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, eps=radii - 1)) == 1


def test_all_channels_of_a_pixel_count_as_one() -> None:
    """On color images it changes at most as many pixels as the radius says, each to a corner of the color cube."""
    images, labels = torch.rand(4, 3, 6, 6), torch.zeros(4, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    perturbed = SparseRS(queries=50)(model, images, labels, eps=5.0)
    changed = (perturbed != images).any(1)
    assert (changed.flatten(1).sum(1) <= 5).all()
    colors = perturbed.permute(0, 2, 3, 1)[changed]
    assert ((colors == 0) | (colors == 1)).all()

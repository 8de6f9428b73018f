from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.probes import cut_at_edges, is_randomized

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Switch(nn.Module):
    """Each row, or the whole batch, draws one of two linear models, which are ``apart`` from each other."""

    def __init__(
        self, *, apart: float = 1.0, scale: float = 1.0, shift: float = 0.0, whole_batch: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
        self.apart, self.scale, self.shift, self.whole_batch = apart, scale, shift, whole_batch

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.rand(1 if self.whole_batch else len(images), 1).round()
        logits = images.flatten(1) @ self.weight.T * (1 + self.apart * drawn)
        return logits * self.scale + self.shift


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES[:2], IMAGES])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("apart", [1.0, 0.01])
def test_a_switch_between_two_is_noticed(images: Tensor, scale: float, apart: float) -> None:
    """Even one image and two channels, whatever the range of the logits; never missed in 200 attempts."""
    assert all(is_randomized(Switch(apart=apart, scale=scale), images) for _ in range(200))


def test_a_draw_for_the_whole_batch_is_noticed() -> None:
    """Of two paths that a whole pass shares, one is overlooked with a chance of 1e-9: never in 200 attempts."""
    assert all(is_randomized(Switch(whole_batch=True), IMAGES) for _ in range(200))


def test_a_draw_from_a_generator_of_the_models_own_is_noticed() -> None:
    """Python's and NumPy's, and one that nobody else can reach, of which one is overlooked in 500."""
    choices = [random.random, np.random.random, np.random.default_rng(0).random]
    for choose in choices:
        models = [lambda images, choose=choose: images.flatten(1) * (1 + (choose() < 0.5)) for _ in range(40)]
        assert sum(is_randomized(model, IMAGES) for model in models) >= 39


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_no_more_rows_are_asked_about_than_fit_a_batch(batch_size: int | None) -> None:
    """Neither to measure whether a model draws, nor where a gradient is cut off."""
    rows: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            rows.append(len(images))
            return images.flatten(1)

    assert not is_randomized(Counting(), IMAGES, size=BatchSize(batch_size))
    assert not cut_at_edges(Counting(), IMAGES, size=BatchSize(batch_size))
    assert max(rows) <= (batch_size or 18)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_deterministic_model_is_not_taken_for_randomized(scale: float, shift: float) -> None:
    """Rounding is no randomness, not even that of logits with a large part in common."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
    assert not is_randomized(lambda images: network(images) * scale + shift * scale, IMAGES)  # type: ignore[arg-type]
    assert not is_randomized(Switch(apart=1e-7, scale=scale, shift=shift * scale), IMAGES)

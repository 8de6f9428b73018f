"""Steps beside torchattacks: images whose steps never meet the edges of the box, where attacks clamp differently, and its draws."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random

from .conftest import Victim

__all__ = ["EPS", "draw_as_ours", "inner_images", "same_pixels"]

EPS = 0.05


def inner_images(victim: Victim) -> Tensor:
    """The images of a victim with pixels in [0.3, 0.7], float64."""
    return 0.3 + 0.4 * victim.images.double()


def same_pixels(first: Tensor, second: Tensor) -> float:
    """The share of pixels that two attacks change alike: a gradient near 0 may have either sign by rounding."""
    return float(((first - second).abs() < 1e-5).double().mean())


def draw_as_ours(monkeypatch: pytest.MonkeyPatch, images: Tensor, *, seed: int, neighbors: int) -> None:
    """Gives the draws of our variance tuning to code that fills a tensor with uniform numbers for one neighbor after another."""

    def moves() -> Iterator[Tensor]:
        random = Random.of(seed, images)
        while True:
            yield from (2 * random.uniform((neighbors, *images.shape[1:])) - 1).unbind(1)

    draws = moves()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda empty, _, width: empty.copy_(width * next(draws)))

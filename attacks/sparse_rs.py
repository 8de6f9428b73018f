"""Sparse-RS: random search over sparse perturbations."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import RandomSearch
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["SparseRS"]

_SHRINKING = {0: 2, 50: 4, 200: 5, 500: 6, 1000: 8, 2000: 10, 4000: 12, 6000: 15, 8000: 20}
"""The divisor of ``alpha_init`` from each query on, for 10,000 queries (the paper's schedule)."""


class SparseRS(FixedRadiusAttack):
    """Random search over the set of changed pixels and their colors, from scores alone.

    The search starts with as many changed pixels as the radius allows, each at a random corner of the color cube. A
    candidate restores some of them and changes others instead, fewer and fewer on a schedule. A pixel is never set to its
    own color.
    """

    paper: ClassVar[str] = (
        "Croce, Andriushchenko, Singh, Flammarion, Hein: Sparse-RS: a versatile framework for query-efficient sparse "
        "black-box adversarial attacks. AAAI 2022, arXiv 2006.12834"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    access: ClassVar[Literal["scores"]] = "scores"

    queries: int = Field(5000, ge=1, description="query budget for each image and restart")
    alpha_init: float = Field(
        0.3,
        gt=0,
        le=1,
        description="share of the changed pixels that a candidate exchanges, divided by 2 or more on the schedule",
    )
    restarts: int = Field(1, ge=1, description="number of random starts; only unbroken images are restarted")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        search = RandomSearch(
            start=_random_pixels, propose=self._exchange, queries=self.queries, restarts=self.restarts
        )
        return search.run(source, images, labels, threat, random)

    def _exchange(self, over: float, incumbents: Tensor, images: Tensor, threat: Threat, random: Random) -> Tensor:
        """Candidates that exchange some of the changed pixels of the incumbents for others (algorithm 1)."""
        divisor = next(value for query, value in reversed(_SHRINKING.items()) if 10_000 * over >= query)
        most = threat.eps.floor()
        count = (most * self.alpha_init / divisor).round().clamp_min(1)
        changed = (incumbents != images).any(1)
        order = random.uniform(images.shape[2:])
        restored = _first(changed, order, count)
        # At a radius below 1 there is no pixel to exchange.
        taken = _first(~changed, order, most - (changed & ~restored).flatten(1).sum(1))
        candidates = torch.where(restored.unsqueeze(1), images, incumbents)
        return torch.where(taken.unsqueeze(1), _corners(images, random), candidates)


def _random_pixels(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """The first candidates: as many random pixels as the radius allows, at random corners of the color cube."""
    order = random.uniform(images.shape[2:])
    chosen = _first(torch.ones_like(order, dtype=torch.bool), order, threat.eps.floor())
    return torch.where(chosen.unsqueeze(1), _corners(images, random), images)


def _first(among: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Selects up to ``count`` of the candidate pixels.

    Args:
        among: ``(n, H, W)``, the candidate pixels.
        order: ``(n, H, W)``, the smallest of which come first.
        count: ``(n,)``, the number of pixels.

    Returns:
        ``(n, H, W)``, whether a pixel is selected.
    """
    ranked = torch.where(among, order, torch.inf).flatten(1).argsort(1)
    chosen = torch.arange(ranked.shape[1], device=ranked.device) < count[:, None]
    return torch.zeros_like(chosen).scatter_(1, ranked, chosen).view_as(among) & among


def _corners(images: Tensor, random: Random) -> Tensor:
    """A random corner of the color cube for every pixel, different from the pixel's own color."""
    corners = random.integers(2, images.shape[1:]).to(images.dtype)
    return torch.where((corners == images).all(1, keepdim=True), 1 - corners, corners)

"""Sparse-RS: random search over sparse perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import Drawn, RandomSearch
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["SparseRS"]

_SHRINKING = {0: 2, 50: 4, 200: 5, 500: 6, 1000: 8, 2000: 10, 4000: 12, 6000: 15, 8000: 20}
"""The divisor of ``alpha_init`` from each query on, for 10,000 queries (the paper's schedule)."""

_NUMBERS = 1 << 22
"""The largest number of random numbers to draw at once, which bounds the memory."""


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

    def most_queries(self) -> int:
        return self.queries * self.restarts

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        search = RandomSearch(
            start=_random_pixels,
            draw=self._draw,
            propose=_exchange,
            queries=self.queries,
            restarts=self.restarts,
        )
        return search.run(source, images, labels, threat, random)

    def _draw(self, shares: Sequence[float], images: Tensor, threat: Threat, random: Random) -> Drawn:
        """What :func:`_exchange` needs: an order of the pixels, colors, and the numbers of pixels to change."""
        divisor = _divisor(shares[0])
        same = list(takewhile(lambda share: _divisor(share) == divisor, shares[: max(1, _NUMBERS // images.numel())]))
        ahead = random.ahead(len(same), draws=2)
        most = threat.eps.floor()[:, None]
        return Drawn(
            per_query=(ahead.uniform(images.shape[2:]), _corners(images, ahead)),
            per_image=(most, (most * self.alpha_init / divisor).round_().clamp_min_(1)),
        )


def _divisor(share: float) -> int:
    """The divisor of ``alpha_init`` after this share of the queries."""
    return next(value for query, value in reversed(_SHRINKING.items()) if 10_000 * share >= query)


def _exchange(share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]) -> Tensor:
    """Candidates that exchange some of the changed pixels of the incumbents for others (algorithm 1)."""
    order, corners, most, count = drawn
    changed = (incumbents != images).any(1).flatten(1)
    # Changed pixels come before the others, both in the given order.
    ranks = _ranks(torch.where(changed, order.flatten(1) - 1, order.flatten(1)))
    restored = (ranks < count) & changed
    # At a radius below 1 there is no pixel to exchange.
    taken = (ranks < most + count.minimum(changed.sum(1, keepdim=True))) > changed
    shape = len(images), 1, *images.shape[2:]
    candidates = torch.where(restored.view(shape), images, incumbents)
    return torch.where(taken.view(shape), corners, candidates)


def _random_pixels(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """The first candidates: as many random pixels as the radius allows, at random corners of the color cube."""
    order = random.uniform(images.shape[2:])
    chosen = (_ranks(order.flatten(1)) < threat.eps.floor()[:, None]).view_as(order)
    return torch.where(chosen.unsqueeze(1), _corners(images, random), images)


def _ranks(values: Tensor) -> Tensor:
    """``(n, m)`` int64: the rank of each of the values ``(n, m)`` of an image; the smallest has rank 0."""
    ranks = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.empty_like(values, dtype=torch.int64).scatter_(1, values.argsort(1), ranks)


def _corners(images: Tensor, random: Random) -> Tensor:
    """A random corner of the color cube for every pixel, different from the pixel's own color: ``(..., n, C, H, W)``."""
    corners = random.integers(2, images.shape[1:]).to(images.dtype)
    return torch.where((corners == images).all(-3, keepdim=True), 1 - corners, corners)

"""Sparse-RS: random search over a few pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import random_search
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["SparseRS"]

_SHRINKING = {0: 2, 50: 4, 200: 5, 500: 6, 1000: 8, 2000: 10, 4000: 12, 6000: 15, 8000: 20}
"""By what ``alpha_init`` is divided from which of 10,000 queries on."""


class SparseRS(FixedRadiusAttack):
    """Random search over which pixels are changed, and to which corner of the colour cube, by scores alone.

    As many pixels as the radius allows are changed from the start. A candidate gives some of them back their own colour
    and changes others instead, fewer and fewer on a schedule. A pixel is never given the colour that it has.
    """

    paper: ClassVar[str] = (
        "Croce, Andriushchenko, Singh, Flammarion, Hein: Sparse-RS: a versatile framework for query-efficient sparse "
        "black-box adversarial attacks. AAAI 2022, arXiv 2006.12834"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    access: ClassVar[Literal["scores"]] = "scores"

    queries: int = Field(5000, ge=1, description="images that each restart asks the model about, for each image")
    alpha_init: float = Field(
        0.3, gt=0, le=1, description="twice the share of the pixels that the first candidates replace"
    )
    restarts: int = Field(
        1, ge=1, description="searches from different starts; only what still stands is searched again"
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return random_search(
            source,
            images,
            labels,
            threat,
            random,
            start=_random_pixels,
            propose=self._exchanged,
            queries=self.queries,
            restarts=self.restarts,
        )

    def _exchanged(self, over: float, incumbents: Tensor, images: Tensor, threat: Threat, random: Random) -> Tensor:
        divisor = next(value for query, value in reversed(_SHRINKING.items()) if 10_000 * over >= query)
        most = threat.eps.floor()
        count = (most * self.alpha_init / divisor).round().clamp_min(1)
        changed = (incumbents != images).any(1)
        order = random.uniform(images.shape[2:])
        given_back = _first(changed, order, count)
        # At a radius of no pixel there is nothing to exchange.
        taken = _first(~changed, order, most - (changed & ~given_back).flatten(1).sum(1))
        candidates = torch.where(given_back.unsqueeze(1), images, incumbents)
        return torch.where(taken.unsqueeze(1), _corners(images, random), candidates)


def _random_pixels(images: Tensor, threat: Threat, random: Random) -> Tensor:
    order = random.uniform(images.shape[2:])
    chosen = _first(torch.ones_like(order, dtype=torch.bool), order, threat.eps.floor())
    return torch.where(chosen.unsqueeze(1), _corners(images, random), images)


def _first(among: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """The ``count`` ``(n,)`` first, in ``order`` ``(n, H, W)``, of the pixels ``among`` ``(n, H, W)``; all of fewer."""
    ranked = torch.where(among, order, torch.inf).flatten(1).argsort(1)
    chosen = torch.arange(ranked.shape[1], device=ranked.device) < count[:, None]
    return torch.zeros_like(chosen).scatter_(1, ranked, chosen).view_as(among) & among


def _corners(images: Tensor, random: Random) -> Tensor:
    """A random corner of the colour cube for every pixel, other than the pixel's own colour."""
    corners = random.integers(2, images.shape[1:]).to(images.dtype)
    return torch.where((corners == images).all(1, keepdim=True), 1 - corners, corners)

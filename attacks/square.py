"""The Square attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import Drawn, RandomSearch
from robustbench_cli.attacks.base.threat import Threat, per_image, project

__all__ = ["Square"]

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries, of 10,000, after which the area of the window is halved (section 3.2 of the paper)."""

_ORDERS = {"l2": 2, "l1": 1}
"""The order p of the vector norm."""

_MANY = 1 << 32
"""The random integers of a candidate are drawn below this bound, so large that their remainders are nearly uniform."""

_ROUNDS = 3
"""Rounds of rescaling a perturbation that the box has shortened; see :func:`_to_radius`."""


class Square(FixedRadiusAttack):
    """Square attack: random search over square windows, from scores alone.

    A candidate differs from the incumbent in one square window with a random position and random signs, whose area shrinks
    on a schedule. In linf the window is set to a corner of the ball, with one sign for each channel (algorithm 2); the
    search starts with vertical stripes, and a window that equals the incumbent takes the opposite corner. In l2 the window
    takes over the length of another window, in the shape of two adjacent hills of opposite sign (algorithm 3). In l1 the
    hills are steeper, and the candidate is projected onto the intersection of the ball and the box, as in AutoAttack
    (Croce, Hein, ICML 2021).
    """

    paper: ClassVar[str] = (
        "Andriushchenko, Croce, Flammarion, Hein: Square Attack: a query-efficient black-box adversarial attack via random "
        "search. ECCV 2020, arXiv 1912.00049"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    access: ClassVar[Literal["scores"]] = "scores"

    queries: int = Field(5000, ge=1, description="query budget for each image and restart")
    p_init: float = Field(0.8, gt=0, le=1, description="initial share of the pixels in the window")
    rescale_schedule: bool = Field(
        True,
        description="rescale the schedule of the window size from 10,000 queries to the query budget; AutoAttack does not",
    )
    restarts: int = Field(1, ge=1, description="number of random starts; only unbroken images are restarted")
    early_stopping: bool = Field(
        False,
        json_schema_extra={"formerly": "gives_up"},
        description="stop early on images that are unlikely to be broken within the remaining queries; untargeted only",
    )
    candidates: int = Field(
        1,
        ge=1,
        le=16,
        # A cell without it is the one from before there was this parameter.
        exclude_if=lambda candidates: candidates == 1,
        description="candidates scored together after a tenth of the queries (500 at least), of which the best counts; each is a "
        "query. Unless the draws are a sample",
    )

    def most_queries(self) -> int | None:
        # Early stopping depends on the margins.
        return None if self.early_stopping else self.queries * self.restarts

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        search = RandomSearch(
            start=_stripes if threat.norm == "linf" else _hills,
            draw=self._draw_corners if threat.norm == "linf" else self._draw_hills,
            propose=_with_corners if threat.norm == "linf" else _with_moved_hills,
            queries=self.queries,
            restarts=self.restarts,
            early_stopping=self.early_stopping,
            candidates=self.candidates,
        )
        return search.run(source, images, labels, threat, random)

    def _side(self, over: float, images: Tensor) -> int:
        """The side of the window after the share ``over`` of the query budget is used."""
        height, width = images.shape[2:]
        # The paper counts candidates from 0.
        number = max(0, round(over * self.queries) - 1)
        if self.rescale_schedule:
            number = number * 10_000 // self.queries
        halvings = sum(number > query for query in _HALVINGS)
        return min(max(1, round(math.sqrt(self.p_init / 2**halvings * height * width))), height, width)

    def _sides(self, shares: Sequence[float], images: Tensor) -> tuple[int, int]:
        """The side of the window at the first of these shares of the queries, and at how many it is the same."""
        side = self._side(shares[0], images)
        return side, len(list(takewhile(lambda share: self._side(share, images) == side, shares)))

    def _draw_corners(self, shares: Sequence[float], images: Tensor, threat: Threat, random: Random) -> Drawn:
        """What :func:`_with_corners` needs: windows, signs, and the corners of the balls."""
        side, queries = self._sides(shares, images)
        drawn = random.ahead(queries).integers(_MANY, (2 + images.shape[1],))
        eps = per_image(threat.eps, images).to(images.dtype)
        return Drawn(
            per_query=(*_window(drawn[..., None, :2], side, images), _are_odd(drawn[..., 2:])),
            per_image=((images - eps).clamp_(0, 1), (images + eps).clamp_(0, 1)),
        )

    def _draw_hills(self, shares: Sequence[float], images: Tensor, threat: Threat, random: Random) -> Drawn:
        """What :func:`_with_moved_hills` needs: two windows, the hills in the first one and their signs, and the radii."""
        channels, height, width = images.shape[1:]
        side, queries = self._sides(shares, images)
        side = min(max(3, side // 2 * 2 + 1), height, width)
        drawn = random.ahead(queries).integers(_MANY, (5 + channels,))
        corners = drawn[..., :4].unflatten(-1, (2, 2))
        # One pixel more on each side of the hills is 0, and stands for all pixels outside the window.
        hills = functional.pad(_hill(side, images, _ORDERS[threat.norm]), (1, 1, 1, 1))
        rows, columns = ((offsets[..., 0, :] + 1).clamp_(0, side + 1) for offsets in _offsets(corners, side, images))
        return Drawn(
            per_query=(
                *_window(corners, side, images),
                _are_odd(drawn[..., 5:]).to(images.dtype).mul_(2).sub_(1),
                (drawn[..., 4, None, None] & 1),
                rows[..., :, None],
                columns[..., None, :],
            ),
            per_image=(per_image(threat.eps, images).to(images.dtype),),
            shared=(torch.stack([hills, hills.T]),),
        )


def _with_corners(
    share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]
) -> Tensor:
    """Candidates in linf: one window at a corner of the ball (algorithm 2)."""
    rows, columns, upward, lower, upper = drawn
    window = rows & columns
    candidates = torch.where(window, torch.where(upward, upper, lower), incumbents)
    idle = (candidates == incumbents).all(dim=(1, 2, 3), keepdim=True)
    return torch.where(window, torch.where(upward ^ idle, upper, lower), incumbents)


def _with_moved_hills(
    share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]
) -> Tensor:
    """Candidates in l2 and l1: the perturbation of one window is moved to another one (algorithm 3)."""
    rows, columns, signs, transposed, hill_rows, hill_columns, eps, hills = drawn
    channels, order = images.shape[1], _ORDERS[threat.norm]
    windows = rows & columns
    window, emptied = windows.split(1, dim=1)
    difference = incumbents - images
    old = difference * window
    length = _norm(difference, (1, 2, 3), order)
    both = _norm(difference * windows.any(1, keepdim=True), (1, 2, 3) if order == 2 else (2, 3), order)
    shape = torch.addcmul(
        old / _length(old, (1, 2, 3) if order == 2 else (2, 3), order),
        hills[transposed, hill_rows, hill_columns].unsqueeze(1),
        signs,
    )
    if order == 2:
        free = torch.addcmul(eps.square(), length, length, value=-1).clamp_min_(0)
        budget = torch.addcmul(free, both, both).div_(channels).sqrt_()
    else:
        # This exceeds the radius; the projection keeps the largest changes.
        budget = torch.add((eps - length).clamp_min_(0), both, alpha=channels)
    new = shape / _length(shape, (2, 3), order) * budget
    return _to_radius(torch.where(window, new, difference.masked_fill(emptied, 0)), images, threat)


def _stripes(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """The first candidates in linf: vertical stripes one pixel wide, at corners of the ball."""
    signs = random.signs((images.shape[1], 1, images.shape[3]))
    return (images + per_image(threat.eps, images).to(images.dtype) * signs).clamp_(0, 1)


def _hills(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """The first candidates in l2 and l1: a grid of at least five by five hills, with a random sign for each channel."""
    channels, height, width = images.shape[1:]
    side = max(1, min(height, width) // 5)
    tile = _hill(side, images, _ORDERS[threat.norm])
    down, across = height // side, width // side
    signs = random.signs((channels, down, across))
    grid = torch.einsum("ncij,ab->nciajb", signs, tile).reshape(len(images), channels, down * side, across * side)
    above, before = (height - down * side) // 2, (width - across * side) // 2
    perturbation = torch.zeros_like(images)
    perturbation[:, :, above : above + down * side, before : before + across * side] = grid
    return _to_radius(perturbation, images, threat)


def _to_radius(perturbation: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Images whose perturbation has the given direction and the length of the radius, as far as the box allows.

    The length that the box takes from some pixels goes to the others. Otherwise a mostly black image would lose half of
    it. In l1, the projection onto the intersection of ball and box redistributes the length.
    """
    eps = per_image(threat.eps, images).to(images.dtype)
    if threat.norm == "l1":
        longer = (eps / _length(perturbation, (1, 2, 3), 1)).clamp_min(1)
        return project(images + perturbation * longer, images, threat)
    for _ in range(_ROUNDS):
        perturbed = torch.addcmul(images, perturbation / _length(perturbation, (1, 2, 3)), eps).clamp_(0, 1)
        perturbation = perturbed - images
    return perturbed


def _norm(perturbation: Tensor, dimensions: tuple[int, ...], order: int = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(perturbation, ord=order, dim=dimensions, keepdim=True)
    return norm


def _length(perturbation: Tensor, dimensions: tuple[int, ...], order: int = 2) -> Tensor:
    """The norm, not so small that a division by it overflows."""
    return _norm(perturbation, dimensions, order).clamp_min_(1e-12)


def _are_odd(drawn: Tensor) -> Tensor:
    """``(..., C, 1, 1)`` bool: whether each of the integers ``(..., C)`` is odd."""
    return (drawn & 1).bool()[..., None, None]


def _offsets(corners: Tensor, side: int, images: Tensor) -> list[Tensor]:
    """The offsets of every row and column from windows inside the images, whose corners random integers determine.

    Args:
        corners: ``(..., 2)``, two integers for each upper left corner.
        side: The side of the windows.
        images: ``(n, C, H, W)``.

    Returns:
        ``(..., H)`` and ``(..., W)``.
    """
    return [
        torch.arange(length, device=images.device) - (corners[..., axis] % (length - side + 1)).unsqueeze(-1)
        for axis, length in enumerate(images.shape[2:])
    ]


def _window(corners: Tensor, side: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Masks ``(..., H, 1)`` and ``(..., 1, W)`` of the rows and columns of windows; see :func:`_offsets`."""
    rows, columns = ((offsets >= 0) & (offsets < side) for offsets in _offsets(corners, side, images))
    return rows[..., :, None], columns[..., None, :]


def _hill(side: int, images: Tensor, order: int) -> Tensor:
    """``(side, side)`` of length 1: two hills above each other, with opposite signs (equation 2 of the paper)."""
    upper, lower = (_single_hill(height, side, order) for height in (side // 2, side - side // 2))
    both = torch.cat([upper, -lower])
    return (both / _length(both, (0, 1), order)).to(images, non_blocking=True)


def _single_hill(height: int, width: int, order: int) -> Tensor:
    """``(height, width)`` of length 1: the sum over k of growing centered rectangles, of height ``1 / k**2``.

    In l1 the heights are ``1 / k**4``, as in AutoAttack. The hill is made on the CPU: its many small steps would be as
    many kernels.
    """
    hill = torch.zeros(height, width)
    for k in range(max(height, width) // 2 + 1):
        top, left = height // 2 - k, width // 2 - k
        hill[max(top, 0) : top + 2 * k + 1, max(left, 0) : left + 2 * k + 1] += 1 / (k + 1) ** (4 if order == 1 else 2)
    return hill / _length(hill, (0, 1), order)

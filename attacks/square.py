"""The Square attack."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import RandomSearch
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

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        search = RandomSearch(
            start=_stripes if threat.norm == "linf" else _hills,
            propose=self._corners if threat.norm == "linf" else self._moved_hill,
            queries=self.queries,
            restarts=self.restarts,
            early_stopping=self.early_stopping,
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

    def _corners(self, over: float, incumbents: Tensor, images: Tensor, threat: Threat, random: Random) -> Tensor:
        """Candidates in linf: one window at a corner of the ball (algorithm 2)."""
        side = self._side(over, images)
        drawn = random.integers(_MANY, (2 + images.shape[1],))
        window = _window(*_corner(drawn, side, images), side, images)
        signs = _as_signs(drawn[:, 2:])
        eps = per_image(threat.eps, images).to(images.dtype)
        candidates = torch.where(window, (images + eps * signs).clamp_(0, 1), incumbents)
        idle = per_image((candidates == incumbents).flatten(1).all(1), images)
        return torch.where(idle & window, (images - eps * signs).clamp_(0, 1), candidates)

    def _moved_hill(self, over: float, incumbents: Tensor, images: Tensor, threat: Threat, random: Random) -> Tensor:
        """Candidates in l2 and l1: the perturbation of one window is moved to another one (algorithm 3)."""
        channels, height, width = images.shape[1:]
        order = _ORDERS[threat.norm]
        side = min(max(3, self._side(over, images) // 2 * 2 + 1), height, width)
        drawn = random.integers(_MANY, (5 + channels,))
        top, left = _corner(drawn, side, images)
        window, emptied = _window(top, left, side, images), _window(*_corner(drawn[:, 2:], side, images), side, images)
        difference = incumbents - images
        old = difference * window
        hill = _placed(_hill(side, images, order), top, left, images, transposed=drawn[:, 4] % 2 == 1)
        eps, length = per_image(threat.eps, images).to(images.dtype), _length(difference, (1, 2, 3), order)
        both = _length(difference * (window | emptied), (1, 2, 3) if order == 2 else (2, 3), order)
        if order == 2:
            shape = hill * _as_signs(drawn[:, 5:]) + old / _length(old, (1, 2, 3))
            free = (eps.square() - length.square()).clamp_min(0)
            budget = ((free + both.square()) / channels).sqrt()
        else:
            shape = hill * _as_signs(drawn[:, 5:]) + old / _length(old, (2, 3), order)
            # This exceeds the radius; the projection keeps the largest changes.
            budget = (eps - length).clamp_min(0) + channels * both
        new = shape / _length(shape, (2, 3), order) * budget
        moved = torch.where(window, new, difference * ~emptied)
        return _to_radius(moved, images, threat)


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
        perturbed = (images + perturbation / _length(perturbation, (1, 2, 3)) * eps).clamp_(0, 1)
        perturbation = perturbed - images
    return perturbed


def _length(perturbation: Tensor, dimensions: tuple[int, ...], order: int = 2) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(perturbation, ord=order, dim=dimensions, keepdim=True)
    return length.clamp_min(1e-12)


def _as_signs(drawn: Tensor) -> Tensor:
    """``(n, C, 1, 1)``, 1 or -1 for each of the integers ``(n, C)``."""
    return (2.0 * (drawn % 2) - 1)[:, :, None, None]


def _corner(drawn: Tensor, side: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """The upper left corner of a window inside the image, from the first two columns of the integers ``(n, >= 2)``."""
    height, width = images.shape[2:]
    return drawn[:, 0] % (height - side + 1), drawn[:, 1] % (width - side + 1)


def _window(top: Tensor, left: Tensor, side: int, images: Tensor) -> Tensor:
    """The masks ``(n, 1, H, W)`` of the windows with the upper left corners ``(n,)``."""
    rows, columns = _offsets(top, left, images)
    return (_covers(rows, side)[:, :, None] & _covers(columns, side)[:, None, :]).unsqueeze(1)


def _covers(offsets: Tensor, side: int) -> Tensor:
    return (offsets >= 0) & (offsets < side)


def _offsets(top: Tensor, left: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The offsets of every row ``(n, H)`` and column ``(n, W)`` from a window's upper left corner."""
    rows = torch.arange(images.shape[2], device=images.device) - top[:, None]
    columns = torch.arange(images.shape[3], device=images.device) - left[:, None]
    return rows, columns


def _placed(tile: Tensor, top: Tensor, left: Tensor, images: Tensor, *, transposed: Tensor) -> Tensor:
    """``(n, 1, H, W)``, a square tile in each image's window, transposed where ``transposed`` ``(n,)``; 0 outside."""
    side = len(tile)
    rows, columns = (offset.clamp(0, side - 1) for offset in _offsets(top, left, images))
    upright, across = tile[rows[:, :, None], columns[:, None, :]], tile[columns[:, None, :], rows[:, :, None]]
    chosen = torch.where(transposed[:, None, None], across, upright).unsqueeze(1)
    return chosen * _window(top, left, side, images)


def _hill(side: int, images: Tensor, order: int) -> Tensor:
    """``(side, side)`` of length 1: two hills above each other, with opposite signs (equation 2 of the paper)."""
    upper = _single_hill(side // 2, side, images, order)
    lower = _single_hill(side - side // 2, side, images, order)
    both = torch.cat([upper, -lower])
    return both / _length(both, (0, 1), order)


def _single_hill(height: int, width: int, images: Tensor, order: int) -> Tensor:
    """``(height, width)`` of length 1: the sum over k of growing centered rectangles, of height ``1 / k**2``.

    In l1 the heights are ``1 / k**4``, as in AutoAttack.
    """
    hill = torch.zeros(height, width, dtype=images.dtype, device=images.device)
    for k in range(max(height, width) // 2 + 1):
        top, left = height // 2 - k, width // 2 - k
        hill[max(top, 0) : top + 2 * k + 1, max(left, 0) : left + 2 * k + 1] += 1 / (k + 1) ** (4 if order == 1 else 2)
    return hill / _length(hill, (0, 1), order)

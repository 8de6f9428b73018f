"""The boundary of a class as linear models see it, and the shortest way to it inside the box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.minimal_norm import Goal, linear_distance
from robustbench_cli.attacks.base.threat import distance, per_image, steepest_ascent

__all__ = ["Plane", "free_step_to_plane", "nearest_plane", "short_step_to_plane", "step_to_plane"]

_ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}

_FAR = 1e30
"""A shortfall that no step makes up for."""


@dataclass(frozen=True)
class Plane:
    """Where a linear model of each image's shortfall is 0.

    Attributes:
        slope: ``(N, C, H, W)``, of the mean shortfall over the draws.
        value: ``(N,)`` float64, the largest shortfall of any draw at the point where the model was made: every draw has to
            be fooled.
    """

    slope: Tensor
    value: Tensor

    def value_at(self, points: Tensor, made_at: Tensor) -> Tensor:
        """The linear model's value ``(N,)`` at points ``(N, C, H, W)``."""
        return self.value + (self.slope.double() * (points.double() - made_at.double())).flatten(1).sum(1)


def nearest_plane(
    source: GradientSource,
    points: Tensor,
    labels: Tensor,
    goal: Goal,
    *,
    classes: int,
    norm: Norm,
    box: bool = True,
    rows: Tensor | None = None,
) -> tuple[Tensor, Plane]:
    """Of the planes between a label and the likeliest other classes, the one that is the shortest step away.

    Args:
        source: Asked for a gradient for each class; for one, if the goal is a target.
        points: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        goal: What has to be reached.
        classes: The number of classes besides the label, the largest logits first.
        norm: In which steps are measured.
        box: Whether steps stay inside the box.
        rows: See :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.

    Returns:
        Logits ``(D, N, K)``, and the planes.
    """
    if goal.targeted:
        logits, slope = source.gradient(points, labels, goal.shortfall, rows=rows)
        value = goal.shortfall(logits.flatten(0, 1), labels.repeat(len(logits)))[:, None]
        return logits, Plane(slope, _worst(value, logits, goal)[0])
    leads = _leads_over(classes)
    logits, slopes = source.gradients(points, labels, leads, rows=rows)
    values = _worst(leads(logits.flatten(0, 1), labels.repeat(len(logits))), logits, goal)
    measured = _length_in_box if box else _length
    lengths = [measured(points, slope, value, norm) for slope, value in zip(slopes, values, strict=True)]
    # The likeliest class always counts.
    lengths[0] = lengths[0].clamp_max(torch.finfo(torch.float64).max)
    nearest = torch.stack(lengths).argmin(0)
    rows = torch.arange(len(points), device=points.device)
    return logits, Plane(slopes[nearest, rows], values[nearest, rows])


def _length_in_box(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """How long the step to each plane is ``(N,)``; infinite where the box does not let the image reach it."""
    step = step_to_plane(points, slope, value, norm)
    at_end = value + (slope.double() * step.double()).flatten(1).sum(1)
    return torch.where(at_end.abs() <= 1e-3 * value.abs(), distance(points + step, points, norm), torch.inf)


def _length(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    return linear_distance(value.abs(), slope, norm)


def _worst(values: Tensor, logits: Tensor, goal: Goal) -> Tensor:
    """The largest ``(L, N)`` of any draw, of values ``(D N, L)`` of logits ``(D, N, K)``, and beyond rounding."""
    by_draw = values.view(len(logits), -1, values.shape[1]) + 2 * goal.rounding(logits).unsqueeze(-1)
    # Over a masked class the lead may be infinite.
    return by_draw.double().amax(0).T.clamp_max(_FAR)


def _leads_over(classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The leads ``(M, L)`` of the label over the L likeliest of the other classes, the likeliest first."""

    def leads(logits: Tensor, labels: Tensor) -> Tensor:
        index = labels.unsqueeze(1)
        others = logits.scatter(1, index, -torch.inf).sort(dim=1, descending=True).values
        return logits.gather(1, index) - others[:, : min(classes, logits.shape[1] - 1)]

    return leads


def step_to_plane(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The shortest step inside the box to where a linear function is 0, or as near to that as the box allows.

    The box-constrained projection of Croce and Hein (ICML 2020, section 2.2), by sorting the ways to the box's edges.

    Args:
        points: ``(N, C, H, W)`` in [0, 1].
        slope: ``(N, C, H, W)``, of the function.
        value: ``(N,)``, of the function at the points.
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        Steps ``(N, C, H, W)``.
    """
    flat, at = slope.flatten(1).double(), points.flatten(1).double()
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # What is more than the box allows in any case is as good as infinite, and can be multiplied.
    flat, gap = flat / largest, (value.double()[:, None].abs() / largest).clamp_max(2.0 * flat.shape[1])
    way = -flat.sign() * value.double().sign()[:, None]
    rate, room = flat.abs(), torch.where(way > 0, 1 - at, at)
    if norm == "l1":
        order = rate.argsort(dim=1, descending=True, stable=True)
        gained = (rate * room).gather(1, order)
        rest = gap - (gained.cumsum(1) - gained)
        spent = rest.clamp_min(0) / rate.gather(1, order).clamp_min(1e-200)
        sizes = torch.zeros_like(room).scatter_(1, order, torch.minimum(spent, room.gather(1, order)))
        return (way * sizes).to(points.dtype).view_as(points)
    # Each pixel moves at its speed until the box stops it: what is gained grows piecewise linearly in the time.
    speed = rate if norm == "l2" else torch.ones_like(rate)
    until, order = (room / speed.clamp_min(1e-200)).sort(dim=1)
    stopped = (rate * room).gather(1, order)
    growth = (rate * speed).gather(1, order).flip(1).cumsum(1).flip(1)
    before = stopped.cumsum(1) - stopped
    # Pixels that do not matter never stop; they gain nothing.
    reached = (before + (growth * until).nan_to_num(0, 0)) >= gap
    first = torch.where(reached.any(1), reached.int().argmax(1), reached.shape[1] - 1)[:, None]
    time = (gap - before.gather(1, first)).clamp_min(0) / growth.gather(1, first).clamp_min(1e-200)
    return (way * torch.minimum(speed * time, room)).to(points.dtype).view_as(points)


def free_step_to_plane(plane: Plane, norm: Norm) -> Tensor:
    """The shortest step ``(N, C, H, W)`` to the plane if there were no box, in l2 or linf."""
    way = steepest_ascent(plane.slope, norm)
    length = -plane.value.sign() * linear_distance(plane.value.abs(), plane.slope, norm)
    return way * per_image(length.nan_to_num(0, 0, 0), way).to(way.dtype)


def short_step_to_plane(points: Tensor, plane: Plane, norm: Norm) -> Tensor:
    """The way of :func:`step_to_plane`, but no further than the plane would be away if there were no box.

    Where few pixels have room, the way to the plane is long, and on a model that is not linear it is wrong long before its
    end: several steps, each with a plane of its own, come nearer.

    Args:
        points: ``(N, C, H, W)`` in [0, 1].
        plane: Made at the points.
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        Steps ``(N, C, H, W)``.
    """
    step = step_to_plane(points, plane.slope, plane.value, norm)
    length = torch.linalg.vector_norm(step.flatten(1).double(), ord=_ORDERS[norm], dim=1)
    share = linear_distance(plane.value.abs(), plane.slope, norm) / length.clamp_min(torch.finfo(torch.float64).tiny)
    return step * per_image(share.clamp_max(1), points).to(points.dtype)

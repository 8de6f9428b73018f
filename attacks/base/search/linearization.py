"""Linearizes the decision boundary into planes, and computes the shortest step to a plane inside the box.

At a point x, the shortfall of each class is replaced by its first-order Taylor expansion. The set where this linear
function is 0 is a :class:`Plane`, which approximates the decision boundary to that class. :func:`nearest_plane` selects
the class with the closest plane, and :func:`step_to_plane` solves for the shortest step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.minimal_norm import Goal, linear_distance
from robustbench_cli.attacks.base.threat import distance, per_image, steepest_ascent

__all__ = [
    "Plane",
    "by_boundary_distance",
    "free_step_to_plane",
    "nearest_plane",
    "short_step_to_plane",
    "step_to_plane",
]

_ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}

_UNREACHABLE = 1e30
"""The bound of a shortfall, which no step can make up for."""

_NUMBERS_AT_ONCE = 1 << 28
"""Numbers in the gradients of all classes that :func:`by_boundary_distance` holds at once: 1 GB."""


@dataclass(frozen=True)
class Plane:
    """The zero set of a linearization of each image's shortfall at a point.

    Attributes:
        slope: ``(N, C, H, W)``, the gradient of the mean shortfall over the draws.
        value: ``(N,)`` float64, the largest shortfall of any draw at the point, since every draw must be fooled.
    """

    slope: Tensor
    value: Tensor

    def value_at(self, points: Tensor, origins: Tensor) -> Tensor:
        """The linearized shortfall at other points.

        Args:
            points: ``(N, C, H, W)``.
            origins: ``(N, C, H, W)``, the points of the linearization.

        Returns:
            ``(N,)`` float64.
        """
        return self.value + (self.slope.double() * (points.double() - origins.double())).flatten(1).sum(1)


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
    """The nearest of the planes between the label and the likeliest other classes.

    One forward pass and one backward pass per class give the planes. A targeted goal has a single plane.

    Args:
        source: Computes the gradients.
        points: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        goal: The attack's goal.
        classes: The number of other classes, those with the largest logits first.
        norm: The norm of the steps.
        box: Whether the steps must stay inside the box.
        rows: See :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.

    Returns:
        Logits ``(D, N, K)``, and the nearest plane of each image.
    """
    if goal.targeted:
        logits, slope = source.gradient(points, labels, goal.shortfall, rows=rows)
        value = goal.shortfall(logits.flatten(0, 1), labels.repeat(len(logits)))[:, None]
        return logits, Plane(slope, _largest_over_draws(value, logits, goal)[0])
    leads = _leads_over(classes)
    logits, slopes = source.gradients(points, labels, leads, rows=rows)
    values = _largest_over_draws(leads(logits.flatten(0, 1), labels.repeat(len(logits))), logits, goal)
    length = _length_in_box if box else _length
    lengths = [length(points, slope, value, norm) for slope, value in zip(slopes, values, strict=True)]
    # The likeliest class is always reachable, so that argmin never chooses among infinite lengths alone.
    lengths[0] = lengths[0].clamp_max(torch.finfo(torch.float64).max)
    nearest = torch.stack(lengths).argmin(0)
    rows = torch.arange(len(points), device=points.device)
    return logits, Plane(slopes[nearest, rows], values[nearest, rows])


def by_boundary_distance(source: GradientSource, images: Tensor, classes: Tensor, norm: Norm) -> Tensor:
    """Sorts classes by the distance of the images to their linearized decision boundaries, without the box.

    One forward pass and one backward pass per class give the distances. With several draws, their mean logits count.

    Source: Melamed, Yehudai, Shamir: MALT Powers Up Adversarial Attacks. NeurIPS 2024, arXiv 2407.02240, section 3.

    Args:
        source: Computes the gradients.
        images: ``(N, C, H, W)`` in [0, 1], the whole batch of the attack.
        classes: ``(N, T)``, the labels first.
        norm: The norm of the distance.

    Returns:
        ``(N, T)``: the labels, and then the other classes, the nearest ones first.
    """
    at_once = max(1, _NUMBERS_AT_ONCE // (classes.shape[1] * images[0].numel()))
    distances = []
    for rows in torch.arange(len(images), device=images.device).split(at_once):
        logits, slopes = source.gradients(images[rows], classes[rows], lambda logits, c: logits.gather(1, c), rows=rows)
        leads = logits.mean(0).gather(1, classes[rows]).T.double()
        distances.append(
            torch.stack(
                [
                    linear_distance((leads[0] - lead).clamp_min(0), slopes[0] - slope, norm)
                    for lead, slope in zip(leads[1:], slopes[1:], strict=True)
                ],
                dim=1,
            )
        )
    nearest = torch.cat(distances).argsort(dim=1, stable=True)
    return torch.cat([classes[:, :1], classes[:, 1:].gather(1, nearest)], dim=1)


def _length_in_box(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The lengths ``(N,)`` of the shortest steps to a plane; infinite where the plane does not intersect the box."""
    step = step_to_plane(points, slope, value, norm)
    value_after = value + (slope.double() * step.double()).flatten(1).sum(1)
    return torch.where(value_after.abs() <= 1e-3 * value.abs(), distance(points + step, points, norm), torch.inf)


def _length(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    return linear_distance(value.abs(), slope, norm)


def _largest_over_draws(values: Tensor, logits: Tensor, goal: Goal) -> Tensor:
    """The largest value over the draws, plus twice the tolerance: ``(L, N)``, of values ``(D * N, L)``."""
    by_draw = values.view(len(logits), -1, values.shape[1]) + 2 * goal.rounding(logits).unsqueeze(-1)
    # The lead over a masked class may be infinite.
    return by_draw.double().amax(0).T.clamp_max(_UNREACHABLE)


def _leads_over(classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A function to the leads ``(M, L)`` of the label over the L likeliest other classes, the likeliest first."""

    def leads(logits: Tensor, labels: Tensor) -> Tensor:
        index = labels.unsqueeze(1)
        others = logits.scatter(1, index, -torch.inf).sort(dim=1, descending=True).values
        return logits.gather(1, index) - others[:, : min(classes, logits.shape[1] - 1)]

    return leads


def step_to_plane(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The shortest step inside the box to the zero set of a linear function, or as close to it as the box allows.

    Every pixel moves in the direction that brings the function closer to 0. Its rate is the absolute slope, its room the
    distance to the edge of the box. The step must gain ``|value|``, the sum of rate times movement.

    - l1: the cheapest pixels have the largest rates. They are spent in this order, each up to its room, until the gain
      is complete.
    - linf and l2: all pixels move at the same time, in linf at speed 1, in l2 at a speed equal to their rate, and each
      stops at the edge of the box. The total gain is a piecewise linear function of time with a breakpoint where a pixel
      stops. The breakpoints are sorted. The first one at which the gain is complete bounds the interval of the solution,
      and linear interpolation gives the time.

    Source: Croce, Hein: Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack. ICML 2020,
    section 2.2.

    Args:
        points: ``(N, C, H, W)`` in [0, 1].
        slope: ``(N, C, H, W)``, the gradient of the function.
        value: ``(N,)``, the value of the function at the points.
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        Steps ``(N, C, H, W)``.

    >>> points, slope = torch.tensor([[0.9, 0.5]]), torch.tensor([[-1.0, -1.0]])
    >>> step_to_plane(points, slope, torch.tensor([0.25]), "linf")
    tensor([[0.1000, 0.1500]])
    """
    flat, pixels = slope.flatten(1).double(), points.flatten(1).double()
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # A gap beyond what the whole box can gain is reduced to a bound, so that products stay finite.
    flat, gap = flat / largest, (value.double()[:, None].abs() / largest).clamp_max(2.0 * flat.shape[1])
    direction = -flat.sign() * value.double().sign()[:, None]
    rate, room = flat.abs(), torch.where(direction > 0, 1 - pixels, pixels)
    movement = _movement_l1(rate, room, gap) if norm == "l1" else _movement_in_time(rate, room, gap, norm)
    return (direction * movement).to(points.dtype).view_as(points)


def _movement_l1(rate: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """The movements ``(N, P)`` of the pixels: those with the largest rates use up their room first."""
    order = rate.argsort(dim=1, descending=True, stable=True)
    gains = (rate * room).gather(1, order)
    # What is left to gain before each pixel moves.
    rest = gap - (gains.cumsum(1) - gains)
    needed = rest.clamp_min(0) / rate.gather(1, order).clamp_min(1e-200)
    return torch.zeros_like(room).scatter_(1, order, torch.minimum(needed, room.gather(1, order)))


def _movement_in_time(rate: Tensor, room: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """The movements ``(N, P)`` of pixels that move together, each until it reaches the edge of the box."""
    speed = rate if norm == "l2" else torch.ones_like(rate)
    stop, order = (room / speed.clamp_min(1e-200)).sort(dim=1)
    # At each breakpoint: the gain of the pixels that have stopped, and the gain per time of those that still move.
    gains = (rate * room).gather(1, order)
    growth = (rate * speed).gather(1, order).flip(1).cumsum(1).flip(1)
    stopped = gains.cumsum(1) - gains
    # Pixels with rate 0 never stop, and gain nothing: 0 times infinity counts as 0.
    complete = (stopped + (growth * stop).nan_to_num(0, 0)) >= gap
    first = torch.where(complete.any(1), complete.int().argmax(1), complete.shape[1] - 1)[:, None]
    time = (gap - stopped.gather(1, first)).clamp_min(0) / growth.gather(1, first).clamp_min(1e-200)
    return torch.minimum(speed * time, room)


def free_step_to_plane(plane: Plane, norm: Norm) -> Tensor:
    """The shortest step to a plane without regard to the box.

    Args:
        plane: The plane.
        norm: ``l2`` or ``linf``.

    Returns:
        ``(N, C, H, W)``; 0 where the plane's slope is 0.
    """
    direction = steepest_ascent(plane.slope, norm)
    length = -plane.value.sign() * linear_distance(plane.value.abs(), plane.slope, norm)
    return direction * per_image(length.nan_to_num(0, 0, 0), direction).to(direction.dtype)


def short_step_to_plane(points: Tensor, plane: Plane, norm: Norm) -> Tensor:
    """The direction of :func:`step_to_plane`, limited to the distance of the plane without the box.

    If few pixels have room, the step inside the box is long, and the linearization is wrong well before its end. Several
    shorter steps, each with a new linearization, come closer to the decision boundary.

    Args:
        points: ``(N, C, H, W)`` in [0, 1].
        plane: The linearization at the points.
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        Steps ``(N, C, H, W)``.
    """
    step = step_to_plane(points, plane.slope, plane.value, norm)
    length = torch.linalg.vector_norm(step.flatten(1).double(), ord=_ORDERS[norm], dim=1)
    share = linear_distance(plane.value.abs(), plane.slope, norm) / length.clamp_min(torch.finfo(torch.float64).tiny)
    return step * per_image(share.clamp_max(1), points).to(points.dtype)

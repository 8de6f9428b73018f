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
from robustbench_cli.attacks.base.losses import Loss, closed_form
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.minimal_norm import Goal, Shortfall, dual_norms, linear_distance, norms
from robustbench_cli.attacks.base.threat import per_image

__all__ = [
    "Plane",
    "by_boundary_distance",
    "free_step_to_plane",
    "nearest_plane",
    "plane_of_goal",
    "short_step_to_plane",
    "step_to_plane",
]

_UNREACHABLE = 1e30
"""The bound of a shortfall, which no step can make up for."""

_NUMBERS_AT_ONCE = 1 << 27
"""Numbers in the gradients of all classes that :func:`by_boundary_distance` holds at once: 0.5 GB, and as much again
for their differences."""


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
        return self.value + (self.slope * (points - origins)).flatten(1).sum(1, dtype=torch.float64)


def plane_of_goal(
    source: GradientSource,
    points: Tensor,
    labels: Tensor,
    goal: Goal,
    *,
    rows: Tensor | None = None,
    copies: int | Tensor = 1,
) -> tuple[Shortfall, Plane]:
    """The plane of a goal's own shortfall, by one gradient.

    Args:
        source: Computes the gradients.
        points: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        goal: The goal.
        rows: See :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.
        copies: Likewise.

    Returns:
        How far the points are from the goal, and the plane of each image.
    """
    shortfall, slope = goal.gradient(source, points, labels, rows=rows, copies=copies)
    return shortfall, Plane(slope, shortfall.values.add(shortfall.tolerance, alpha=2).amax(0).double())


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
) -> tuple[Shortfall, Plane]:
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
        How far the points are from the goal, and the nearest plane of each image.
    """
    if goal.targeted:
        return plane_of_goal(source, points, labels, goal, rows=rows)
    leads = _leads_over(classes)
    logits, slopes = source.gradients(points, labels, leads, rows=rows)
    by_draw = goal.of_margins(leads(logits.flatten(0, 1), labels.repeat(len(logits)))).unflatten(0, (len(logits), -1))
    # The likeliest other class decides whether a draw is fooled.
    shortfall = Shortfall(by_draw[..., 0], goal.rounding(logits), logits)
    # The lead over a masked class may be infinite.
    values = by_draw.add(shortfall.tolerance.unsqueeze(-1), alpha=2).amax(0).T.clamp_max(_UNREACHABLE).double()
    length = _length_in_box if box else _length
    # As many classes together as the source passes images: more do not fit a CPU's cache.
    parts = source.size.slices(len(slopes), cost=max(1, len(points)))
    lengths = torch.cat([length(points, slopes[part], values[part], norm) for part in parts])
    # The likeliest class is always reachable, so that argmin never chooses among infinite lengths alone.
    lengths[0].clamp_max_(torch.finfo(lengths.dtype).max)
    nearest = lengths.argmin(0)
    indices = torch.arange(len(points), device=points.device)
    return shortfall, Plane(slopes[nearest, indices], values[nearest, indices])


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
        leads = logits.mean(0).gather(1, classes[rows]).T
        distances.append(linear_distance(leads[0] - leads[1:], slopes[0] - slopes[1:], norm).T)
    nearest = torch.cat(distances).argsort(dim=1, stable=True)
    return torch.cat([classes[:, :1], classes[:, 1:].gather(1, nearest)], dim=1)


def _length_in_box(points: Tensor, slopes: Tensor, values: Tensor, norm: Norm) -> Tensor:
    """The lengths ``(L, N)`` of the shortest steps to L planes; infinite where a plane does not intersect the box."""
    steps, reached = _step_and_reach(points.unsqueeze(0), slopes, values, norm)
    return norms(steps, norm, dims=2).masked_fill_(~reached, torch.inf)


def _length(points: Tensor, slopes: Tensor, values: Tensor, norm: Norm) -> Tensor:
    return linear_distance(values.abs(), slopes, norm)


def _leads_over(classes: int) -> Loss:
    """A function to the leads ``(M, L)`` of the label over the L likeliest other classes, the likeliest first."""

    def ordered(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
        values, indices = others.topk(min(classes, logits.shape[1] - 1), dim=1)
        return values, indices

    def slopes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        _, indices = ordered(logits, labels)
        slopes = logits.new_zeros(indices.shape[1], *logits.shape).scatter_(2, indices.T.unsqueeze(2), -1)
        of_label = labels.view(1, -1, 1).expand(len(slopes), -1, 1)
        return slopes.scatter_(2, of_label, 1), lambda: leads(logits, labels)

    @closed_form(slopes)
    def leads(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.gather(1, labels.unsqueeze(1)) - ordered(logits, labels)[0]

    return leads


def step_to_plane(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The shortest step inside the box to the zero set of a linear function, or as close to it as the box allows.

    Every pixel moves in the direction that brings the function closer to 0. Its rate is the absolute slope, its room the
    distance to the edge of the box. The step must gain ``|value|``, the sum of rate times movement.

    - l1: the cheapest pixels have the largest rates. They are spent in this order, each up to its room, until the gain
      is complete.
    - linf and l2: all pixels move at the same time, in linf at speed 1, in l2 at a speed equal to their rate, and each
      stops at the edge of the box. The total gain is a piecewise linear, concave function of time with a breakpoint where
      a pixel stops. So it is the smallest of the linear functions of its pieces, and the gain is complete at the largest
      of the times at which these reach it.

    Source: Croce, Hein: Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack. ICML 2020,
    section 2.2.

    Args:
        points: ``(..., C, H, W)`` in [0, 1].
        slope: ``(..., C, H, W)``, the gradient of the function.
        value: ``(...)``, the value of the function at the points. The points or the slopes may be the same for all values
            along a dimension, which is 1 then.
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        Steps ``(..., C, H, W)``.

    >>> points, slope = torch.tensor([[0.9, 0.5]]), torch.tensor([[-1.0, -1.0]])
    >>> step_to_plane(points, slope, torch.tensor([0.25]), "linf")
    tensor([[0.1000, 0.1500]])
    """
    return _step_and_reach(points, slope, value, norm)[0]


def _step_and_reach(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The step ``(..., C, H, W)`` of :func:`step_to_plane`, and whether the box contains its end ``(...)`` to 0.1 %."""
    pixels, flat = points.flatten(value.dim()).double(), slope.flatten(value.dim())
    largest = flat.abs().amax(-1, keepdim=True).double().clamp_min(torch.finfo(torch.float64).tiny)
    scale = largest.copysign(-value.unsqueeze(-1))
    # A gap beyond what the whole box can gain is reduced to a bound, so that products stay finite.
    gap = (value.unsqueeze(-1) / -scale).clamp_max(2.0 * flat.shape[-1])
    # Positive where the pixel increases. A pixel without a slope has no room.
    towards = flat / scale
    room = (torch.heaviside(towards, pixels) - pixels).abs_()
    # The squares of the rates must not underflow either.
    rate = towards.abs().clamp_min_(1e-150)
    movement, total = _movement_l1(rate, room, gap) if norm == "l1" else _movement_in_time(rate, room, gap, norm)
    step = movement.copysign_(towards).to(points.dtype)
    return step.view(*step.shape[:-1], *points.shape[value.dim() :]), (total >= (1 - 1e-3) * gap).squeeze(-1)


def _movement_l1(rate: Tensor, room: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """The movements ``(..., P)`` of the pixels, and the gain ``(..., 1)`` if all use up their room.

    Those with the largest rates use up their room first.
    """
    rates, order = rate.sort(dim=-1, descending=True, stable=True)
    rooms = room.gather(-1, order)
    gains = rates * rooms
    gained = gains.cumsum(-1)
    # What is left to gain before each pixel moves, and the movement that gains it.
    needed = (gap - (gained - gains)).clamp_min_(0).div_(rates)
    return torch.empty_like(rooms).scatter_(-1, order, torch.minimum(needed, rooms)), gained[..., -1:]


def _movement_in_time(rate: Tensor, room: Tensor, gap: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Like :func:`_movement_l1`, of pixels that move together, each until it reaches the edge of the box."""
    stop, growth = (room / rate, rate.square()) if norm == "l2" else (room, rate)
    # The last pixel to stop comes first.
    stops, order = stop.sort(dim=-1, descending=True)
    growths = growth.gather(-1, order)
    # Just before each stop: the gain per time of the pixels that still move, and the gain of those that have stopped.
    gains = (growths * stops).cumsum_(-1)
    total = gains[..., -1:]
    missing = gains + (gap - total)
    time = missing.div_(growths.cumsum_(-1)).amax(-1, keepdim=True).clamp_min_(0)
    return torch.minimum(rate * time if norm == "l2" else time, room), total


def free_step_to_plane(plane: Plane, norm: Norm) -> Tensor:
    """The shortest step to a plane without regard to the box.

    Args:
        plane: The plane.
        norm: ``l2`` or ``linf``.

    Returns:
        ``(N, C, H, W)``; 0 where the plane's slope is 0.
    """
    size = dual_norms(plane.slope, norm)
    direction = (
        plane.slope.sign() if norm == "linf" else plane.slope / per_image(size, plane.slope).to(plane.slope.dtype)
    )
    return direction * per_image(-plane.value / size, direction).to(direction.dtype)


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
    length = norms(step, norm).clamp_min(torch.finfo(torch.float64).tiny)
    share = linear_distance(plane.value.abs(), plane.slope, norm) / length
    return step * per_image(share.clamp_max(1), points).to(points.dtype)

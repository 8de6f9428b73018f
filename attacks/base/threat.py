"""Threat models: the norm, the radius, the goal; and the geometry of their balls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random

__all__ = [
    "Threat",
    "distance",
    "per_image",
    "project",
    "project_exactly",
    "random_in_ball",
    "reset_outside",
    "scale_by_largest",
    "sparse_ascent",
    "steepest_ascent",
]

_ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the adversary may do, for each of N images.

    Attributes:
        norm: The norm of the perturbation.
        eps: ``(N,)`` radii >= 0 on the [0, 1] pixel scale; infinite for an attack that looks for the smallest one.
        targeted: Whether an image's label is the class to reach rather than the class to leave.
    """

    norm: Norm
    eps: Tensor
    targeted: bool = False

    def select(self, rows: Tensor) -> Threat:
        """The threat for the images ``rows`` (int64 indices or a mask)."""
        return Threat(norm=self.norm, eps=self.eps[rows], targeted=self.targeted)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """``(N,)`` values in the shape that broadcasts against images ``(N, ...)``."""
    return values.view(-1, *[1] * (images.dim() - 1))


def distance(perturbed: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """``(N,)`` float64 norms of ``perturbed - images``, each ``(N, C, H, W)``; l0 counts pixels, not channels."""
    difference = perturbed.double() - images.double()
    if norm == "l0":
        return difference.ne(0).any(dim=1).flatten(1).sum(1).double()
    length: Tensor = torch.linalg.vector_norm(difference.flatten(1), ord=_ORDERS[norm], dim=1)
    return length


def scale_by_largest(gradient: Tensor) -> Tensor:
    """The gradient ``(N, ...)`` over each image's largest entry; zero where the gradient is.

    One far below what float32 holds does not vanish when it is summed up or squared afterwards.
    """
    largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / per_image(largest, gradient)


def steepest_ascent(gradient: Tensor, norm: Norm) -> Tensor:
    """The perturbation of norm 1 along which a function of this gradient grows fastest; zero where the gradient is.

    Args:
        gradient: ``(N, C, H, W)``.
        norm: ``linf`` gives the sign, ``l2`` the normalised gradient, ``l1`` the coordinate of the largest slope; l0,
            whose balls have no bounds, has no such direction.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return functional.normalize(scale_by_largest(gradient).flatten(1), dim=1).view_as(gradient)
    if norm == "l1":
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign())
        return step.view_as(gradient)
    raise ValueError(f"no direction of steepest ascent in {norm}")


def sparse_ascent(gradient: Tensor, iterates: Tensor, pixels: Tensor) -> Tensor:
    """A perturbation of l1 norm 1 that moves several pixels by the same amount: those of the largest slopes with room.

    The direction of steepest ascent in l1 moves one pixel only, which soon meets the edge of the box.

    Args:
        gradient: ``(N, C, H, W)``.
        iterates: ``(N, C, H, W)`` in [0, 1]; a pixel at the edge of the box has no room beyond it.
        pixels: ``(N,)``, how many to move (channels counted by themselves), at least 1; fewer where fewer have a slope.
    """
    room = torch.where(gradient > 0, iterates < 1, iterates > 0)
    slopes = torch.where(room, gradient, 0).flatten(1)
    ordered = slopes.abs().sort(1, descending=True).values
    last = (pixels.ceil().long() - 1).clamp(0, ordered.shape[1] - 1)
    moved = slopes.sign() * (slopes.abs() >= ordered.gather(1, last[:, None]))
    return (moved / moved.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


def random_in_ball(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """A perturbation ``(N, C, H, W)`` for each image, uniform in the threat's ball (before any cut with the box).

    In l0, whose ball has no bounds, as many pixels as the radius allows are drawn, and each gets a colour of the box.
    """
    shape = images.shape[1:]
    eps = per_image(threat.eps, images).to(images.dtype)
    if threat.norm == "linf":
        return (2 * random.uniform(shape) - 1) * eps
    if threat.norm == "l2":
        direction = steepest_ascent(random.normal(shape), "l2")
        return direction * eps * per_image(random.uniform(()), images) ** (1 / images[0].numel())
    if threat.norm == "l1":
        # Exponential numbers over their sum are uniform on a simplex of one dimension more, whose last one is what is
        # left of eps (Calafiore, Dabbene, Tempo: Uniform Sample Generation in l_p Balls. CDC 1998).
        sizes = -(1 - random.uniform((1 + math.prod(shape),))).log()
        shares = (sizes / sizes.sum(1, keepdim=True))[:, 1:].view_as(images)
        return shares * eps * (2.0 * random.integers(2, shape) - 1)
    change = random.uniform(shape) - images
    return change * _largest(random.uniform(shape[1:]), threat.eps).unsqueeze(1)


def project(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """The points of the threat's balls, cut with the box [0, 1], that stand in for ``perturbed``, to rounding.

    In linf, l1 and l0 it is the nearest such point. In l2 the perturbation is shortened and then clipped to the box,
    which shortens it further: a point inside both, not always the nearest. In l0 the pixels of the largest change keep
    theirs.
    """
    eps = per_image(threat.eps, images).to(images.dtype)
    if threat.norm == "linf":
        return torch.minimum(torch.maximum(perturbed, images - eps), images + eps).clamp_(0, 1)
    if threat.norm == "l2":
        difference = perturbed - images
        length = per_image(difference.flatten(1).norm(dim=1), images)
        return (images + difference * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp_(0, 1)
    if threat.norm == "l1":
        return _project_l1(perturbed, images, eps)
    inside = perturbed.clamp(0, 1)
    # By how much the squared distance to `perturbed` falls when a pixel follows it into the box.
    gain = (inside - images) * (2 * perturbed - inside - images)
    kept = _largest(gain.sum(1), threat.eps)
    return torch.where(kept.unsqueeze(1), inside, images)


def _largest(sizes: Tensor, count: Tensor) -> Tensor:
    """Where the ``count`` ``(N,)`` largest of the sizes ``(N, H, W)`` of each image are; of equal ones, the first."""
    order = sizes.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, places + 1 <= count[:, None]).view_as(sizes)


def _project_l1(perturbed: Tensor, images: Tensor, eps: Tensor) -> Tensor:
    """The nearest point of the l1 ball cut with the box (Croce, Hein: Mind the Box. ICML 2021, section 2).

    Every pixel's change is made smaller by one and the same amount, and then clipped to the box; the amount is the
    smallest that leaves a length of eps. The length falls with it, linearly between two breakpoints. Halving an
    interval 24 times and dividing the last one in proportion costs a third of sorting the breakpoints (784 pixels,
    CPU).
    """
    difference = perturbed - images
    sizes = difference.abs().flatten(1)
    room = torch.minimum(sizes, torch.where(difference > 0, 1 - images, images).flatten(1))
    radius = eps.flatten()

    def length(less: Tensor) -> Tensor:
        return torch.minimum((sizes - less[:, None]).clamp_min_(0), room).sum(1)

    low, high = torch.zeros_like(radius), sizes.amax(1)
    low_length, high_length = length(low), torch.zeros_like(radius)
    for _ in range(24):
        middle = (low + high) / 2
        at_middle = length(middle)
        over = at_middle > radius
        low, low_length = torch.where(over, middle, low), torch.where(over, at_middle, low_length)
        high, high_length = torch.where(over, high, middle), torch.where(over, high_length, at_middle)
    share = (low_length - radius) / (low_length - high_length).clamp_min(torch.finfo(radius.dtype).tiny)
    less = per_image(low + (high - low) * share.clamp(0, 1), images)
    return (images + (difference.abs() - less).clamp_min_(0).copysign_(difference)).clamp_(0, 1)


def project_exactly(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Like :func:`project`, with the distance held to the last bit: ``distance(result, images) <= eps`` in float64.

    A row with a value that is not a number becomes the image itself.
    """
    finite = per_image(perturbed.flatten(1).isfinite().all(1), images)
    perturbed = torch.where(finite, perturbed, images).clamp(0, 1)
    if threat.norm == "linf":
        centre, radius = images.double(), per_image(threat.eps, images)
        nearest = perturbed.double().clamp(centre - radius, centre + radius).to(images.dtype)
        # Rounding moves a pixel by half of what lies between two neighbours at most.
        return torch.where((nearest.double() - centre).abs() > radius, nearest.nextafter(images), nearest)
    if threat.norm == "l0":
        return project(perturbed, images, threat)
    length = distance(perturbed, images, threat.norm)
    outside = length > threat.eps
    if not bool(outside.any()):
        return perturbed
    # Aim inside by the length of a vector of rounding errors, so that no rounding of the pixels can lead out again. A
    # pixel that has not changed is not rounded.
    changed = (perturbed != images).flatten(1).sum(1).double()
    slack = torch.finfo(images.dtype).eps / 2 * changed ** (1 / _ORDERS[threat.norm])
    factor = per_image((threat.eps - slack).clamp_min(0) / length.clamp_min(1e-300), images)
    shorter = (images.double() + (perturbed.double() - images.double()) * factor).to(images.dtype)
    return torch.where(per_image(outside, images), shorter, perturbed)


def reset_outside(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """``perturbed`` where it lies in its ball to the last bit, and the image itself elsewhere; all ``(N, C, H, W)``."""
    inside = distance(perturbed, images, threat.norm) <= threat.eps
    return torch.where(per_image(inside, images), perturbed, images)

"""Threat models (norm, radius, goal) and the geometry of their balls: distances, steps and projections."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random

__all__ = [
    "FeasibleSet",
    "Threat",
    "distance",
    "in_ball",
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
    """The perturbations that an adversary may make to N images.

    Attributes:
        norm: The norm of the perturbation.
        eps: ``(N,)`` radii >= 0 on the [0, 1] pixel scale; infinite for a minimal-norm attack.
        targeted: Whether an image's label is the class to reach, and not the class to leave.
    """

    norm: Norm
    eps: Tensor
    targeted: bool = False

    def select(self, rows: Tensor) -> Threat:
        """The threat for the images ``rows`` (int64 indices or a mask)."""
        return Threat(norm=self.norm, eps=self.eps[rows], targeted=self.targeted)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshapes one value per image so that it broadcasts against the images.

    Args:
        values: ``(N,)``.
        images: ``(N, ...)``.

    Returns:
        ``(N, 1, ..., 1)``.
    """
    return values.view(-1, *[1] * (images.dim() - 1))


def distance(perturbed: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """The norm of each perturbation.

    Args:
        perturbed: ``(N, C, H, W)``.
        images: ``(N, C, H, W)``.
        norm: ``l0`` counts pixels and not channels.

    Returns:
        ``(N,)`` float64.

    >>> image = torch.zeros(1, 1, 1, 2)
    >>> perturbed = torch.tensor([[[[3.0, 4.0]]]])
    >>> [distance(perturbed, image, norm).item() for norm in ("linf", "l2", "l1", "l0")]
    [4.0, 5.0, 7.0, 2.0]
    """
    difference = perturbed.double() - images.double()
    if norm == "l0":
        return difference.ne(0).any(dim=1).flatten(1).sum(1).double()
    length: Tensor = torch.linalg.vector_norm(difference.flatten(1), ord=_ORDERS[norm], dim=1)
    return length


def scale_by_largest(gradient: Tensor) -> Tensor:
    """Each image's gradient ``(N, ...)`` divided by its largest absolute entry; a zero gradient stays zero.

    Sums and squares of tiny gradients would otherwise underflow in float32.
    """
    largest = gradient.flatten(1).abs().amax(1).clamp_min_(torch.finfo(gradient.dtype).tiny)
    return gradient / per_image(largest, gradient)


def steepest_ascent(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of norm 1 in which a function with this gradient increases fastest.

    Args:
        gradient: ``(N, C, H, W)``.
        norm: ``linf`` gives the sign, ``l2`` the normalized gradient, ``l1`` the sign of the largest entry alone, which
            is one channel of a pixel. The l0 ball is unbounded and has no such direction.

    Returns:
        ``(N, C, H, W)``; zero where the gradient is zero.

    Raises:
        ValueError: The norm is ``l0``.

    >>> gradient = torch.tensor([[[[3.0, -4.0]]]])
    >>> steepest_ascent(gradient, "linf").flatten()
    tensor([ 1., -1.])
    >>> steepest_ascent(gradient, "l2").flatten()
    tensor([ 0.6000, -0.8000])
    >>> steepest_ascent(gradient, "l1").flatten()
    tensor([ 0., -1.])
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        scaled = scale_by_largest(gradient)
        length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min_(torch.finfo(gradient.dtype).tiny)
        return scaled.div_(per_image(length, gradient))
    if norm == "l1":
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign())
        return step.view_as(gradient)
    raise ValueError(f"no direction of steepest ascent in {norm}")


def sparse_ascent(gradient: Tensor, iterates: Tensor, entries: Tensor | int) -> Tensor:
    """A step of l1 norm 1 that moves the entries with the largest slopes by the same amount.

    An entry is one channel of a pixel.

    The direction of steepest ascent in l1 moves only one entry, which soon reaches the edge of the box. Entries at
    the edge of the box that would leave it do not move.

    Args:
        gradient: ``(N, C, H, W)``.
        iterates: ``(N, C, H, W)`` in [0, 1].
        entries: ``(N,)`` int64, or one for all: the number of entries to move, between 1 and C * H * W. Fewer entries move if
            fewer have a slope and room.

    Returns:
        ``(N, C, H, W)``.
    """
    # Slopes are bounded by the room, times the largest float: by 0 at an edge, and elsewhere by more than any slope.
    lowest = iterates * -torch.finfo(iterates.dtype).max
    slopes = gradient.clamp(lowest, lowest + torch.finfo(iterates.dtype).max).flatten(1)
    sizes = slopes.abs()
    if isinstance(entries, int):
        smallest = sizes.topk(entries, dim=1).values[:, -1:]
    else:
        smallest = sizes.sort(1).values.gather(1, sizes.shape[1] - entries[:, None])
    moved = slopes.sign_() * (sizes >= smallest)
    moved /= torch.linalg.vector_norm(moved, ord=1, dim=1, keepdim=True).clamp_min_(1)
    return moved.view_as(gradient)


def random_in_ball(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """A random perturbation per image, uniform in the threat's ball; the box [0, 1] is not taken into account.

    The l0 ball is unbounded. There, the radius gives the number of random pixels, and each gets a random color in the box.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        threat: The norm and the radii.
        random: The random numbers of these images.

    Returns:
        ``(N, C, H, W)``.

    >>> images = torch.zeros(1, 1, 1, 2)
    >>> threat = Threat(norm="linf", eps=torch.tensor([0.5]))
    >>> random_in_ball(images, threat, Random.of(0, images)).flatten()
    tensor([-0.4135, -0.2574])
    """
    shape = images.shape[1:]
    eps = per_image(threat.eps, images).to(images.dtype)
    if threat.norm == "linf":
        return (2 * random.uniform(shape) - 1) * eps
    if threat.norm == "l2":
        direction = steepest_ascent(random.normal(shape), "l2")
        return direction * eps * per_image(random.uniform(()), images) ** (1 / images[0].numel())
    if threat.norm == "l1":
        # n + 1 exponential numbers divided by their sum are uniform on a simplex. One of them is the unused part of eps,
        # the others are the sizes (Calafiore, Dabbene, Tempo: Uniform Sample Generation in l_p Balls. CDC 1998).
        sizes = -(1 - random.uniform((1 + math.prod(shape),))).log()
        shares = (sizes / sizes.sum(1, keepdim=True))[:, 1:].view_as(images)
        return shares * eps * random.signs(shape)
    change = random.uniform(shape) - images
    return change * _largest(random.uniform(shape[1:]), threat.eps).unsqueeze(1)


def project(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Projects onto the intersection of the threat's balls and the box [0, 1], up to float rounding.

    In linf, l1 and l0, the result is the nearest point of the intersection. In l2, the perturbation is scaled down to the
    radius and then clipped to the box, which gives a point of the intersection that is not always the nearest. In l0, the
    pixels with the largest changes stay changed.

    Args:
        perturbed: ``(N, C, H, W)``.
        images: ``(N, C, H, W)`` in [0, 1], the centers of the balls.
        threat: The norm and the radii.

    Returns:
        ``(N, C, H, W)``.

    >>> images = torch.tensor([[[[0.0, 0.5]]]])
    >>> perturbed = torch.tensor([[[[-1.0, 1.0]]]])
    >>> project(perturbed, images, Threat(norm="linf", eps=torch.tensor([0.25]))).flatten()
    tensor([0.0000, 0.7500])
    >>> project(perturbed, images, Threat(norm="l1", eps=torch.tensor([0.25]))).flatten()
    tensor([0.0000, 0.7500])
    """
    return FeasibleSet(images, threat).project(perturbed)


class FeasibleSet:
    """The perturbed images that a threat allows: each image's ball, cut with the box.

    An attack that projects at each step makes one, so that what does not change is computed once.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], the centers of the balls.
        threat: The norm and the radii.
    """

    def __init__(self, images: Tensor, threat: Threat) -> None:
        self.images, self.threat = images, threat
        self._eps = per_image(threat.eps, images).to(images.dtype)
        if threat.norm == "linf":
            self._lower, self._upper = (images - self._eps).clamp_min_(0), (images + self._eps).clamp_max_(1)

    def select(self, rows: Tensor) -> FeasibleSet:
        """The set of the images ``rows`` (int64 indices or a mask)."""
        return FeasibleSet(self.images[rows], self.threat.select(rows))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the set by name, each with one row per image; see :meth:`of_tensors`."""
        return {name: values for name, values in vars(self).items() if isinstance(values, Tensor)} | {
            "radii": self.threat.eps
        }

    def of_tensors(self, tensors: Mapping[str, Tensor]) -> FeasibleSet:
        """A set of the same norm.

        Args:
            tensors: Those of :meth:`tensors` in the rows of some images; tensors of other names are ignored.
        """
        feasible = copy.copy(self)
        vars(feasible).update({name: tensors[name] for name in vars(self) if name in tensors})
        feasible.threat = replace(self.threat, eps=tensors["radii"])
        return feasible

    def project(self, perturbed: Tensor) -> Tensor:
        """Projects points ``(N, C, H, W)``; see :func:`project`."""
        images, eps = self.images, self._eps
        if self.threat.norm == "linf":
            return perturbed.clamp(self._lower, self._upper)
        if self.threat.norm == "l2":
            return self.shorten(perturbed - images)
        if self.threat.norm == "l1":
            return _project_l1(perturbed, images, eps)
        inside = perturbed.clamp(0, 1)
        # The decrease of the squared distance to `perturbed` if this pixel changes.
        gain = (inside - images) * (2 * perturbed - inside - images)
        changed = _largest(gain.sum(1), self.threat.eps)
        return torch.where(changed.unsqueeze(1), inside, images)

    def shorten(self, change: Tensor) -> Tensor:
        """Scales changes ``(N, C, H, W)`` of the images down to l2 balls, and clips the changed images to the box."""
        length = per_image(torch.linalg.vector_norm(change.flatten(1), dim=1), change)
        return torch.addcmul(self.images, change, (self._eps / length.clamp_min_(1e-12)).clamp_max_(1)).clamp_(0, 1)


def _largest(sizes: Tensor, count: Tensor) -> Tensor:
    """``(N, H, W)`` bool: the ``count`` ``(N,)`` largest of each image's sizes ``(N, H, W)``; ties go to the first."""
    order = sizes.flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, ranks + 1 <= count[:, None]).view_as(sizes)


def _project_l1(perturbed: Tensor, images: Tensor, eps: Tensor) -> Tensor:
    """The nearest point in the intersection of the l1 ball and the box.

    The solution reduces the size of every entry's change by the same amount t >= 0 and then clips it to the box; t is the
    smallest amount that gives a length of at most eps. The length is a piecewise linear, decreasing function of t.

    Source: Croce, Hein: Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers. ICML 2021, section 2.
    """
    # The size of each change, and by how much it leads out of the box.
    sizes = images.new_empty(len(images), 2, *images.shape[1:])
    torch.sub(perturbed, images, out=sizes[:, 0])
    torch.sub(perturbed, perturbed.clamp(0, 1), out=sizes[:, 1])
    # On a GPU a sort takes few launches. On a CPU it takes three times as long as the bisections (784 pixels).
    find = _reduction_by_sorting if images.is_cuda else _reduction_by_bisection
    reduction = per_image(find(sizes.abs_().flatten(2), eps.view(-1)), images)
    return images.clamp(perturbed - reduction, perturbed + reduction).clamp_(0, 1)


def _reduction_by_sorting(sizes: Tensor, radius: Tensor) -> Tensor:
    """The amount ``(N,)`` by which all changes must be reduced, exactly: the length is linear between two breakpoints.

    A change of size s that leads out of the box by e has the length ``(s - t)_+ - (e - t)_+``. So right below the j-th
    largest of all s and e, the length is A - t E, with the sums A of the j largest, those of e negative, and E of their
    signs.

    Args:
        sizes: ``(N, 2, P)``, the sizes of the changes, and by how much they lead out of the box.
        radius: ``(N,)``.
    """
    # Stable: a change comes before its own part outside the box, which is no larger. So E is never negative.
    breakpoints, order = sizes.flatten(1).sort(dim=1, descending=True, stable=True)
    # All in halves: a comparison and a subtraction give signs of one half.
    terms, radius = sizes.new_empty(2, *breakpoints.shape), radius[:, None] / 2
    torch.add(order < sizes.shape[2], -0.5, out=terms[1])
    torch.mul(breakpoints, terms[1], out=terms[0])
    sums, counts = totals = terms.cumsum(2)
    # The first length is 0. Reductions below the smallest breakpoint give the same point as that one.
    lengths = torch.addcmul(sums[:, 1:-1], breakpoints[:, 1:-1], counts[:, 1:-1], value=-1)
    last = torch.searchsorted(lengths, radius, right=True)
    sum_at_last, slope = totals.gather(2, last.expand(2, -1, -1))
    # Where no change is between its two breakpoints, E is 0 and the length is constant down to the next breakpoint.
    reduction: Tensor = ((sum_at_last - radius) / slope).fmax(breakpoints[:, 1:].gather(1, last))
    return reduction.squeeze(1)


def _reduction_by_bisection(sizes: Tensor, radius: Tensor) -> Tensor:
    """Like :func:`_reduction_by_sorting`, by 24 bisections and a linear interpolation in the last interval."""
    sizes, outside = sizes.unbind(1)
    room = sizes - outside

    def length(reduction: Tensor) -> Tensor:
        return torch.minimum((sizes - reduction[:, None]).clamp_min_(0), room).sum(1)

    low, high = torch.zeros_like(radius), sizes.amax(1)
    low_length, high_length = length(low), torch.zeros_like(radius)
    for _ in range(24):
        middle = (low + high) / 2
        at_middle = length(middle)
        over = at_middle > radius
        low, low_length = torch.where(over, middle, low), torch.where(over, at_middle, low_length)
        high, high_length = torch.where(over, high, middle), torch.where(over, high_length, at_middle)
    share = (low_length - radius) / (low_length - high_length).clamp_min(torch.finfo(radius.dtype).tiny)
    return low + (high - low) * share.clamp(0, 1)


def project_exactly(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Like :func:`project`, but ``distance(result, images, norm) <= eps`` holds exactly in float64.

    Args:
        perturbed: ``(N, C, H, W)``. A row with a value that is not finite becomes the image itself.
        images: ``(N, C, H, W)`` in [0, 1], the centers of the balls.
        threat: The norm and the radii.

    Returns:
        ``(N, C, H, W)``.
    """
    finite = per_image(perturbed.flatten(1).isfinite().all(1), images)
    perturbed = torch.where(finite, perturbed, images).clamp(0, 1)
    if threat.norm == "linf":
        center, radius = images.double(), per_image(threat.eps, images)
        nearest = perturbed.double().clamp(center - radius, center + radius).to(images.dtype)
        # Rounding moves a pixel by at most half the distance of two neighboring floats.
        return torch.where((nearest.double() - center).abs() > radius, nearest.nextafter(images), nearest)
    if threat.norm == "l0":
        return project(perturbed, images, threat)
    length = distance(perturbed, images, threat.norm)
    outside = length > threat.eps
    if not bool(outside.any()):
        return perturbed
    # The target length leaves slack for the rounding errors of all changed pixels. Unchanged pixels are not rounded.
    changed = (perturbed != images).flatten(1).sum(1).double()
    slack = torch.finfo(images.dtype).eps / 2 * changed ** (1 / _ORDERS[threat.norm])
    factor = per_image((threat.eps - slack).clamp_min(0) / length.clamp_min(1e-300), images)
    shorter = (images.double() + (perturbed.double() - images.double()) * factor).to(images.dtype)
    return torch.where(per_image(outside, images), shorter, perturbed)


def in_ball(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Whether each perturbed image lies in its ball, compared exactly in float64.

    Args:
        perturbed: ``(N, C, H, W)``.
        images: ``(N, C, H, W)``, the centers of the balls.
        threat: The norm and the radii.

    Returns:
        ``(N,)`` bool.

    >>> images = torch.zeros(2, 1, 1, 1)
    >>> threat = Threat(norm="l2", eps=torch.tensor([0.5, 0.5], dtype=torch.float64))
    >>> in_ball(torch.tensor([0.5, 0.75]).view(2, 1, 1, 1), images, threat)
    tensor([ True, False])
    """
    return distance(perturbed, images, threat.norm) <= threat.eps


def reset_outside(perturbed: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Replaces perturbed images outside their balls by the images themselves.

    Args:
        perturbed: ``(N, C, H, W)``.
        images: ``(N, C, H, W)``, the centers of the balls.
        threat: The norm and the radii.

    Returns:
        ``(N, C, H, W)``.
    """
    return torch.where(per_image(in_ball(perturbed, images, threat), images), perturbed, images)

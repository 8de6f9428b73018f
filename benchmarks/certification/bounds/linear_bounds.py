"""Bounds of a network's values over balls of images, by linear relaxation carried from the values back to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.bounds.activations import Lines, Nonlinear
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.bounds.operations import Add, Affine, Box, Exact
from robustbench_cli.benchmarks.certification.bounds.rows import Rows

__all__ = ["Ball", "Relaxation", "margin_rows", "relax"]

REFINEMENT_LIMIT = 2 * 10**10
"""The most multiply-additions for the bounds of one layer of one image. Beyond, the layer keeps its interval bounds."""

_COEFFICIENTS = {"cpu": 2**20, "cuda": 2**25}
"""Coefficients of one tensor at once: 8 MiB, which fit a CPU's cache, or 256 MiB. Some four tensors live at a time."""


@dataclass(frozen=True)
class Ball:
    """The images within a radius of each of N images, clipped to [0, 1].

    Attributes:
        center: ``(N, C, H, W)`` in [0, 1], in double precision.
        eps: ``(N,)`` the radii.
        norm: ``linf``, ``l2`` or ``l1``.
    """

    center: Tensor
    eps: Tensor
    norm: Norm = "linf"

    @property
    def box(self) -> Box:
        """The smallest box that contains each ball."""
        radius = self.eps[:, None, None, None]
        return Box((self.center - radius).clamp(0, 1), (self.center + radius).clamp(0, 1))

    def lowest(self, rows: Rows, image: Tensor) -> Tensor:
        """Lower bounds of linear functions of the image over its ball; in linf these are the minima.

        In l2 and l1 it is the larger of the minimum over the ball, by the dual norm, and of that over the box around it.

        Args:
            rows: M functions.
            image: ``(M,)`` the image of each.

        Returns:
            ``(M,)``.
        """
        box = self.box
        lowest = rows.lowest(box.low, box.high, image)
        if self.norm == "linf":
            return lowest
        order = {"l2": 2.0, "l1": torch.inf}[self.norm]
        size = torch.linalg.vector_norm(rows.coefficients.flatten(1), ord=order, dim=1)
        eps = self.eps if len(self.eps) == 1 else self.eps[image]
        return torch.maximum(lowest, rows.times(self.center, image) - eps * size)

    def select(self, index: Tensor) -> Ball:
        """The balls of some of the images, in this order."""
        return Ball(self.center[index], self.eps[index], self.norm)


@dataclass
class Relaxation:
    """Bounds of all values of a network over balls, and lines for its nonlinear operations.

    Attributes:
        network: The network.
        ball: The balls around N images.
        boxes: The bounds of the operations' values, by number.
        lines: The lines of the nonlinear operations, by number.
    """

    network: Network
    ball: Ball
    boxes: list[Box]
    lines: dict[int, Lines] = field(default_factory=dict)

    def margins(self, labels: Tensor) -> Tensor:
        """Lower bounds of the differences of each label's logit to the other logits.

        They are no lower than those by intervals: where the differences depend on a single operation's values, the bounds of
        these values give a lower bound too, and the largest counts.

        Args:
            labels: ``(N,)``.

        Returns:
            ``(N, K - 1)``, the other classes in ascending order.
        """
        rows, image = margin_rows(self.network, labels)
        return self._carried(rows, image, len(self.boxes) - 1, self.lines, cuts=True).reshape(len(labels), -1)

    def lowest(
        self, rows: Rows, image: Tensor, *, at: int | None = None, lines: Mapping[int, Lines] | None = None
    ) -> Tensor:
        """Lower bounds of linear functions of one operation's values (CROWN, Zhang et al., NeurIPS 2018).

        The functions are carried back operation by operation; each step bounds them from below. Rounding errors of the
        model, in single precision, are bounded along: an error of at most ``e`` changes a function with the coefficient
        ``a`` by ``|a| e``. The bounds themselves are computed in double precision. Its rounding is less than a
        millionth of the model's, so the errors are enlarged by a millionth.

        Args:
            rows: M functions.
            image: ``(M,)`` the image of each. Bounds and lines of a single image serve all functions.
            at: The number of the operation; by default that of the logits.
            lines: Other lines than :attr:`lines`.

        Returns:
            ``(M,)``, differentiable in the lines.
        """
        lines = self.lines if lines is None else lines
        return self._carried(rows, image, len(self.boxes) - 1 if at is None else at, lines, cuts=False)

    def _carried(self, rows: Rows, image: Tensor, number: int, lines: Mapping[int, Lines], *, cuts: bool) -> Tensor:
        """See :meth:`lowest`; ``cuts`` also takes the bounds of single operations' values on the way."""
        pending = {number: rows}
        constant = rows.coefficients.new_zeros(len(image))
        bound = torch.full_like(constant, -torch.inf)
        while number:
            current = pending.pop(number)
            box, operation = self.boxes[number], self.network.operations[number]
            if cuts and not pending:
                bound = torch.maximum(bound, constant + current.lowest(box.low, box.high, image))
            if box.error is not None:
                # By the largest error of each channel, which spares a window of errors for each row.
                constant = constant - (1 + 1e-6) * current.sizes(box.error.amax((2, 3)), image)
            if isinstance(operation, Nonlinear):
                before, added = operation.back_through(current, lines[number], image)
                parts, constant = [before], constant + added
            else:
                assert isinstance(operation, Exact)
                parts, shift = operation.back(current, image)
                constant = constant + shift
            for source, part in zip(operation.inputs, parts, strict=True):
                pending[source] = pending[source].plus(part) if source in pending else part
            number = max(pending)
        return torch.maximum(bound, constant + self.ball.lowest(pending[0], image))


def relax(network: Network, ball: Ball, *, refine: bool = True, size: BatchSize | None = None) -> Relaxation:
    """Bounds all values of a network over balls of images.

    Interval bounds go forward. Where a nonlinear operation follows, the bounds of its inputs that matter are refined by
    :meth:`Relaxation.lowest`; all are no looser than interval bounds. A layer that would take more than
    :data:`REFINEMENT_LIMIT` for an image keeps its interval bounds.

    Args:
        network: The network.
        ball: The balls.
        refine: Whether bounds are refined. Without, the lines follow from interval bounds (as in CROWN-IBP, Zhang et al.,
            ICLR 2020).
        size: Halved where the memory is too small.

    Returns:
        The bounds and lines.
    """
    relaxation = Relaxation(network, ball, [ball.box])
    followed = _before_nonlinear(network)
    depths = _depths(network)
    for number, operation in enumerate(network.operations):
        if operation is None:
            continue
        box = operation.box(*(relaxation.boxes[source] for source in operation.inputs))
        relaxation.boxes.append(box)
        if isinstance(operation, Nonlinear):
            (source,) = operation.inputs
            relaxation.lines[number] = operation.lines(relaxation.boxes[source])
        elif refine and number in followed and (depths[number] > 1 or ball.norm != "linf"):
            loose = torch.stack([follower.loose(box) for follower in followed[number]]).any(0)
            relaxation.boxes[number] = _refined(relaxation, number, loose, size or BatchSize())
    return relaxation


def _before_nonlinear(network: Network) -> dict[int, list[Nonlinear]]:
    """The nonlinear operations that take the values of each operation, by its number."""
    followed: dict[int, list[Nonlinear]] = {}
    for operation in network.operations:
        if isinstance(operation, Nonlinear):
            followed.setdefault(operation.inputs[0], []).append(operation)
    return followed


def _depths(network: Network) -> list[int]:
    """0 where interval bounds in linf are exact and the values independent, 1 where they are exact, and 2 elsewhere."""
    depths = [0]
    for operation in network.operations[1:]:
        assert operation is not None
        depth = max(depths[source] for source in operation.inputs)
        if isinstance(operation, Affine):
            depth = min(depth + 1, 2)
        elif isinstance(operation, Nonlinear | Add):
            depth = 2
        depths.append(depth)
    return depths


def _refined(relaxation: Relaxation, number: int, loose: Tensor, size: BatchSize) -> Box:
    """The bounds of an operation, with those of some of its values refined.

    Args:
        relaxation: The bounds so far.
        number: The number of the operation.
        loose: ``(N, C, H, W)`` which values.
        size: The batch size, in rows.
    """
    box, shape = relaxation.boxes[number], relaxation.network.shapes[number]
    widest, work = _cost(relaxation.network, number)
    affordable = 2 * loose.flatten(1).sum(1) * work <= REFINEMENT_LIMIT
    image, index = (loose.flatten(1) & affordable[:, None]).nonzero(as_tuple=True)
    if not len(image):
        return box
    most = max(1, _COEFFICIENTS.get(image.device.type, _COEFFICIENTS["cpu"]) // widest)

    def compute() -> Tensor:
        parts = []
        for part in BatchSize(min(size.rows or most, most)).slices(len(image), cost=2):
            images, indices = image[part].repeat(2), index[part].repeat(2)
            sign = torch.ones(len(images), dtype=box.low.dtype, device=image.device)
            sign[len(images) // 2 :] = -1
            lowest = relaxation.lowest(Rows.of_values(indices, sign, shape), images, at=number)
            parts.append(torch.stack(lowest.chunk(2)))
        return torch.cat(parts, 1)

    lowest, negative = size.retry_smaller(2 * len(image), compute)
    low, high = box.low.flatten(1).clone(), box.high.flatten(1).clone()
    low[image, index] = torch.maximum(low[image, index], lowest)
    high[image, index] = torch.minimum(high[image, index], -negative)
    return Box(low.reshape_as(box.low), high.reshape_as(box.high), box.error)


def _cost(network: Network, at: int) -> tuple[int, int]:
    """The most coefficients of one row that begins at a value of an operation, and all its multiply-additions."""
    sizes = {at: (1, 1)}
    widest = work = 1
    for number in range(at, 0, -1):
        if number not in sizes:
            continue
        operation, size = network.operations[number], sizes[number]
        assert operation is not None
        work += operation.work(size)
        wanted = operation.window(size)
        for source in operation.inputs:
            channels, height, width = network.shapes[source]
            cut = min(wanted[0], height), min(wanted[1], width)
            known = sizes.get(source, (0, 0))
            sizes[source] = max(known[0], cut[0]), max(known[1], cut[1])
            widest = max(widest, channels * wanted[0] * wanted[1])
    return widest, work


def margin_rows(network: Network, labels: Tensor) -> tuple[Rows, Tensor]:
    """The differences of each label's logit to the other logits, as linear functions of the logits.

    Args:
        network: The network.
        labels: ``(N,)``.

    Returns:
        N times K - 1 functions, and the image of each. The other classes are in ascending order.
    """
    count, classes = len(labels), network.classes
    others = torch.arange(classes, device=labels.device).expand(count, classes)
    others = others[others != labels[:, None]].reshape(count, classes - 1)
    image = torch.arange(count, device=labels.device).repeat_interleave(classes - 1)
    coefficients = torch.zeros(len(image), classes, dtype=torch.float64, device=labels.device)
    coefficients.scatter_(1, labels[image][:, None], 1.0)
    coefficients.scatter_(1, others.reshape(-1, 1), -1.0)
    return Rows.of_plane(coefficients[:, None, None]), image

"""Linear relaxations of activations and of max pooling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.benchmarks.certification.bounds.operations import UNIT_ROUNDOFF, Box, Operation, Shape, place_in
from robustbench_cli.benchmarks.certification.bounds.rows import Rows
from robustbench_cli.defenses.base.surgery.interval_bounds import magnitude

__all__ = ["Curve", "Curved", "Lines", "MaxPool", "Nonlinear", "Rectifier", "curve_of"]

_STEPS = 40
"""Bisection steps to where a curve has a given slope: 2^-40 of the interval."""


@dataclass(frozen=True)
class Lines:
    """Linear functions below and above a nonlinear operation, over the bounds of its inputs.

    Attributes:
        low_slope: ``(N, C, H, W)``; ``(N, C, K, H, W)`` for a pool of K inputs.
        low_shift: ``(N, C, H, W)``; ``None`` where it is 0.
        high_slope: As ``low_slope``.
        high_shift: ``(N, C, H, W)``.
        multiplier: ``(N, C, H, W)`` added to the coefficients of each input that branch and bound assumes to be positive
            or negative; see :meth:`Nonlinear.back_through`. ``None`` without such assumptions.
    """

    low_slope: Tensor
    low_shift: Tensor | None
    high_slope: Tensor
    high_shift: Tensor
    multiplier: Tensor | None = None

    def select(self, index: Tensor) -> Lines:
        """The lines of some of the images, in this order."""
        picked = {name: value[index] for name, value in vars(self).items() if value is not None}
        return replace(self, **picked)


class Nonlinear(Operation):
    """An operation that needs bounds of its inputs."""

    @abstractmethod
    def loose(self, box: Box) -> Tensor:
        """The inputs ``(N, C, H, W)`` for which tighter bounds would tighten the lines."""

    @abstractmethod
    def lines(self, box: Box) -> Lines:
        """The linear functions over the bounds of the inputs."""

    def back_through(self, rows: Rows, lines: Lines, image: Tensor) -> tuple[Rows, Tensor]:
        """Linear functions of the outputs as linear functions of the inputs, by means of the lines.

        A positive coefficient takes the line below, a negative one the line above. For an input that is assumed to be
        positive (negative), a multiple of the input that is non-positive (non-negative) is added: the bound stays one for
        all inputs for which the assumption holds (beta-CROWN, Wang et al., NeurIPS 2021).

        Args:
            rows: M functions of the outputs.
            lines: For each image.
            image: ``(M,)`` the image of each function.

        Returns:
            The functions of the inputs, and the constants ``(M,)`` to add.
        """
        positive, negative = rows.coefficients.clamp_min(0), rows.coefficients.clamp_max(0)

        def window(values: Tensor) -> Tensor:
            return rows.windows(values, image)

        constant = negative * window(lines.high_shift)
        if lines.low_shift is not None:
            constant = constant + positive * window(lines.low_shift)
        coefficients = positive * window(lines.low_slope) + negative * window(lines.high_slope)
        if lines.multiplier is not None:
            coefficients = coefficients + window(lines.multiplier)
        return rows.replaced(coefficients), constant.flatten(1).sum(1)


class Rectifier(Nonlinear):
    """ReLU and leaky ReLU.

    The line above is the chord. The line below goes through 0, with the slope of the longer side (Zhang et al.: Efficient
    Neural Network Robustness Certification with General Activation Functions. NeurIPS 2018, arXiv 1811.00866).

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        slope: The slope below 0, in [0, 1].
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, slope: float) -> None:
        super().__init__(inputs, shape)
        self.slope = slope

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        low, high = (functional.leaky_relu(values, self.slope) for values in (box.low, box.high))
        if not self.slope:
            return Box(low, high)
        error = UNIT_ROUNDOFF * magnitude(low, high)
        return Box(low - error, high + error, error)

    def loose(self, box: Box) -> Tensor:
        return (box.low < 0) & (box.high > 0)

    def lines(self, box: Box) -> Lines:
        low, high = box.low, box.high
        unstable = self.loose(box)
        # Not two numbers in torch.where, whose result would be in single precision.
        slope = torch.full_like(low, self.slope)
        width = torch.where(unstable, high - low, 1.0)
        chord = torch.where(unstable, (high - slope * low) / width, torch.where(low >= 0, 1.0, slope))
        shift = torch.where(unstable, (1 - slope) * -low * (high / width), 0.0)
        below = torch.where(unstable, torch.where(high > -low, 1.0, slope), chord)
        return Lines(below, None, chord, shift)


@dataclass(frozen=True)
class Curve:
    """A smooth activation function.

    Attributes:
        value: The function.
        slope: Its derivative.
        bends: Where the second derivative changes its sign, in ascending order.
        roundoffs: The largest error of the model's value, in unit roundoffs of the larger of input and output.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bends: tuple[float, ...]
    roundoffs: int = 8

    def extremes(self, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum and the maximum of ``f(x) - slope * x`` over intervals.

        They are at the ends or where the derivative is ``slope``. Between two bends the derivative is monotone, so
        bisection finds the only such point.

        Args:
            slope: Any shape.
            low: The lower ends of the intervals.
            high: The upper ends.
        """
        points = [low, high]
        borders = [-math.inf, *self.bends, math.inf]
        for start, stop in pairwise(borders):
            left, right = low.clamp(start, stop), high.clamp(start, stop)
            rising = self.slope(right) >= self.slope(left)
            for _ in range(_STEPS):
                middle = (left + right) / 2
                below = (self.slope(middle) < slope) == rising
                left, right = torch.where(below, middle, left), torch.where(below, right, middle)
            # A piece outside the interval gives a point at its border, which is outside too.
            points.append(((left + right) / 2).clamp(low, high))
        values = torch.stack([self.value(point) - slope * point for point in points])
        # The point is right to 2^-40 of the interval, where the derivative differs from the slope by as little.
        slack = 1e-12 * (1 + magnitude(low, high)) * (1 + slope.abs())
        return values.amin(0) - slack, values.amax(0) + slack


def _gelu_slope(x: Tensor) -> Tensor:
    normal: Tensor = torch.special.ndtr(x)
    return normal + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    scale = math.sqrt(2 / math.pi)
    inner = torch.tanh(scale * (x + 0.044715 * x**3))
    return 0.5 * (1 + inner) + 0.5 * x * (1 - inner**2) * scale * (1 + 3 * 0.044715 * x * x)


def _silu_slope(x: Tensor) -> Tensor:
    share = torch.sigmoid(x)
    return share * (1 + x * (1 - share))


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x) ** 2


_GELU = Curve(functional.gelu, _gelu_slope, (-math.sqrt(2), math.sqrt(2)))
# The second derivative of x * sigmoid(x) is 0 where x * tanh(x / 2) = 2.
_SILU = Curve(functional.silu, _silu_slope, (-2.3993572805154676, 2.3993572805154676))
_SIGMOID = Curve(torch.sigmoid, _sigmoid_slope, (0.0,))
_TANH = Curve(torch.tanh, _tanh_slope, (0.0,))
# Where the second derivative changes its sign, by Brent's method.
_TANH_GELU = Curve(_tanh_gelu, _tanh_gelu_slope, (-1.4185040087908283, 1.4185040087908283))


def curve_of(layer: nn.Module) -> Curve | None:
    """The curve of an activation layer; ``None`` for other layers.

    Args:
        layer: The layer.
    """
    if type(layer) is nn.GELU:
        return _TANH_GELU if layer.approximate == "tanh" else _GELU
    return {nn.SiLU: _SILU, nn.Sigmoid: _SIGMOID, nn.Tanh: _TANH}.get(type(layer))


class Curved(Nonlinear):
    """A smooth activation. Both lines have the slope of the chord, and touch the curve.

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        curve: The function.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, curve: Curve) -> None:
        super().__init__(inputs, shape)
        self._curve = curve

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        low, high = self._curve.extremes(torch.zeros_like(box.low), box.low, box.high)
        size = torch.maximum(magnitude(low, high), magnitude(box.low, box.high))
        error = self._curve.roundoffs * UNIT_ROUNDOFF * size
        return Box(low - error, high + error, error)

    def loose(self, box: Box) -> Tensor:
        return box.high - box.low > 1e-3

    def lines(self, box: Box) -> Lines:
        low, high = box.low, box.high
        width = high - low
        # Any slope gives sound lines, also where the chord is lost in rounding.
        chord = (self._curve.value(high) - self._curve.value(low)) / width.clamp_min(1e-9)
        below, above = self._curve.extremes(chord, low, high)
        return Lines(chord, below, chord, above)


class MaxPool(Nonlinear):
    """Max pooling.

    The line below is the input with the largest mean of its bounds. For the line above, let ``x`` be the input with the
    largest upper bound, and ``v`` the largest upper bound of the others: the output is at most ``max(x, v)``, and at most its chord
    over the bounds of ``x``.

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        layer: The layer, without dilation.
        plane: ``(H, W)`` of the inputs.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, layer: nn.MaxPool2d, plane: tuple[int, int]) -> None:
        super().__init__(inputs, shape)
        self._kernel, self._stride, self._padding = (
            _both(value) for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        self._plane = plane

    def _candidates(self, values: Tensor) -> Tensor:
        """The inputs of each output: ``(N, C, K, H, W)`` for windows of K inputs."""
        rows, columns = self._padding
        padded = functional.pad(values, (columns, columns, rows, rows), value=-torch.inf)
        unfolded = functional.unfold(padded, self._kernel, stride=self._stride)
        channels, height, width = self.shape
        return unfolded.reshape(len(values), channels, -1, height, width)

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box(*(self._candidates(values).amax(2) for values in (box.low, box.high)))

    def loose(self, box: Box) -> Tensor:
        low, high = self._candidates(box.low), self._candidates(box.high)
        possible = high > low.amax(2, keepdim=True)
        possible = (possible & (possible.sum(2, keepdim=True) > 1)).double()
        counts = functional.fold(
            possible.reshape(len(low), -1, self.shape[1] * self.shape[2]),
            self._plane,
            self._kernel,
            stride=self._stride,
            padding=self._padding,
        )
        return counts > 0

    def lines(self, box: Box) -> Lines:
        low, high = self._candidates(box.low), self._candidates(box.high)
        below = _one_hot((low + high).argmax(2, keepdim=True), low)
        largest, index = high.topk(min(2, high.shape[2]), dim=2)
        first, second = largest[:, :, 0], largest[:, :, -1]
        if high.shape[2] == 1:
            second = torch.full_like(first, -torch.inf)
        least = low.gather(2, index[:, :, :1])[:, :, 0]
        chosen = least >= second
        width = torch.where(chosen, 1.0, first - least)
        slope = torch.where(chosen, 1.0, (first - second.clamp_min(least)) / width)
        shift = torch.where(chosen, 0.0, second - slope * least)
        above = _one_hot(index[:, :, :1], low) * slope.unsqueeze(2)
        return Lines(below, None, above, shift)

    def back_through(self, rows: Rows, lines: Lines, image: Tensor) -> tuple[Rows, Tensor]:
        positive, negative = rows.coefficients.clamp_min(0), rows.coefficients.clamp_max(0)
        constant = (negative * rows.windows(lines.high_shift, image)).flatten(1).sum(1)
        coefficients = constant.new_zeros(len(constant), *self.window(rows.size), self.shape[0])
        for number in range(self._kernel[0] * self._kernel[1]):
            below, above = (rows.windows(slope[:, :, number], image) for slope in (lines.low_slope, lines.high_slope))
            start = divmod(number, self._kernel[1])
            place_in(coefficients, positive * below + negative * above, start, self._stride)
        return rows.moved(coefficients, self._stride, self._padding, self._plane), constant

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (
            (length - 1) * stride + kernel
            for length, stride, kernel in zip(size, self._stride, self._kernel, strict=True)
        )
        return rows, columns


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(2, index, 1.0)


def _both(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

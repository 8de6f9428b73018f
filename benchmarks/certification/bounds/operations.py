"""The affine operations of a network: their interval bounds, and linear functions carried back through them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.benchmarks.certification.bounds.rows import Rows
from robustbench_cli.defenses.base.surgery.interval_bounds import magnitude, propagate, rounding_errors

__all__ = [
    "UNIT_ROUNDOFF",
    "Add",
    "Affine",
    "Box",
    "Operation",
    "Reshape",
    "Scale",
    "Shape",
    "place_in",
    "symmetric_padding",
]

UNIT_ROUNDOFF = torch.finfo(torch.float32).eps / 2
"""The largest relative rounding error of one operation of a model in single precision."""

Shape = tuple[int, int, int]
"""``(C, H, W)``; ``(F, 1, 1)`` for features without a plane."""


@dataclass(frozen=True)
class Box:
    """Bounds of the values of a layer.

    Attributes:
        low: ``(N, C, H, W)``.
        high: ``(N, C, H, W)``.
        error: ``(N, C, H, W)`` bounds of the rounding errors of the layer's own operation in single precision, which
            ``low`` and ``high`` include; ``None`` where there are none.
    """

    low: Tensor
    high: Tensor
    error: Tensor | None = None


class Operation(ABC):
    """An operation of a network.

    Attributes:
        inputs: The numbers of the operations whose values it takes; number 0 is the image.
        shape: The shape of its values.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape) -> None:
        self.inputs = tuple(inputs)
        self.shape = shape

    @abstractmethod
    def box(self, *boxes: Box) -> Box:
        """The bounds of the outputs from those of the inputs, rounding included."""

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the window of the inputs that a window of the outputs depends on, before it is cut to the plane."""
        return size

    def work(self, size: tuple[int, int]) -> int:
        """About how many multiply-additions it takes to carry one row with a window of this size back."""
        return self.shape[0] * size[0] * size[1]


class Exact(Operation):
    """An operation that linear functions are carried back through without lines."""

    @abstractmethod
    def back(self, rows: Rows, image: Tensor) -> tuple[list[Rows], Tensor | float]:
        """Linear functions of the outputs as linear functions of the inputs.

        Args:
            rows: M functions of the outputs.
            image: ``(M,)`` the image of each.

        Returns:
            Functions of each input, and the constants ``(M,)`` to add. Their sum is a lower bound of the functions of the
            outputs.
        """


class Affine(Exact):
    """A fully connected layer or a convolution with zero padding.

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        layer: The layer; it is copied in double precision.
        plane: ``(H, W)`` of the inputs.
    """

    def __init__(
        self, inputs: Sequence[int], shape: Shape, layer: nn.Linear | nn.Conv2d, plane: tuple[int, int]
    ) -> None:
        super().__init__(inputs, shape)
        self.layer = copy.deepcopy(layer).double().requires_grad_(False)
        self.plane = plane
        if isinstance(layer, nn.Conv2d):
            self._stride, self._dilation = _pair(layer.stride), _pair(layer.dilation)
            padding = symmetric_padding(layer)
            assert padding is not None
            self._padding = padding
            self._matrix = self.layer.weight.permute(0, 2, 3, 1).flatten(1).contiguous()

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        low, high = self._flat(box.low), self._flat(box.high)
        lowest, highest = propagate(self.layer, low, high, UNIT_ROUNDOFF)
        error = rounding_errors(self.layer, low, high, UNIT_ROUNDOFF)
        return Box(*(values.reshape(len(values), *self.shape) for values in (lowest, highest, error)))

    def _flat(self, values: Tensor) -> Tensor:
        return values.flatten(1) if isinstance(self.layer, nn.Linear) else values

    def back(self, rows: Rows, image: Tensor) -> tuple[list[Rows], Tensor | float]:
        constant: Tensor | float = 0.0
        if self.layer.bias is not None:
            constant = rows.coefficients.sum((1, 2)) @ self.layer.bias
        if isinstance(self.layer, nn.Linear):
            return [rows.replaced(rows.coefficients @ self.layer.weight)], constant
        if rows.whole or self.layer.groups > 1:
            return [self._through_convolution(rows)], constant
        return [self._through_windows(rows)], constant

    def _through_convolution(self, rows: Rows) -> Rows:
        """By torch's transposed convolution."""
        layer = cast(nn.Conv2d, self.layer)
        # Rows and columns at the end that the convolution does not reach.
        rest, padding = (0, 0), (0, 0)
        if rows.whole:
            wanted = [size + 2 * padding for size, padding in zip(self.plane, self._padding, strict=True)]
            reached = self.window(rows.plane)
            rest, padding = (wanted[0] - reached[0], wanted[1] - reached[1]), self._padding
        coefficients = functional.conv_transpose2d(
            rows.coefficients.permute(0, 3, 1, 2),
            layer.weight,
            stride=self._stride,
            padding=padding,
            output_padding=rest,
            groups=layer.groups,
            dilation=self._dilation,
        ).permute(0, 2, 3, 1)
        if rows.whole:
            return Rows.of_plane(coefficients)
        return rows.moved(coefficients, self._stride, self._padding, self.plane)

    def _through_windows(self, rows: Rows) -> Rows:
        """By one product of matrices for all rows, where torch would take one for each."""
        products = rows.coefficients.reshape(-1, rows.coefficients.shape[3]) @ self._matrix
        layer = cast(nn.Conv2d, self.layer)
        (h, w), kernel = rows.size, layer.kernel_size
        products = products.reshape(len(rows.top), h, w, *kernel, layer.in_channels)
        coefficients = products.new_zeros(len(rows.top), *self.window(rows.size), layer.in_channels)
        for y in range(kernel[0]):
            for x in range(kernel[1]):
                place_in(coefficients, products[:, :, :, y, x], (y, x), self._stride, self._dilation)
        return rows.moved(coefficients, self._stride, self._padding, self.plane)

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        if isinstance(self.layer, nn.Linear):
            return size
        reach = [
            dilation * (kernel - 1) + 1 for dilation, kernel in zip(self._dilation, self.layer.kernel_size, strict=True)
        ]
        return (size[0] - 1) * self._stride[0] + reach[0], (size[1] - 1) * self._stride[1] + reach[1]

    def work(self, size: tuple[int, int]) -> int:
        return self.layer.weight.numel() * size[0] * size[1]


def place_in(
    windows: Tensor, values: Tensor, start: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> None:
    """Adds values to every stride-th position of larger windows.

    Args:
        windows: ``(M, H, W, C)``, changed.
        values: ``(M, h, w, C)``.
        start: The position in the kernel.
        stride: By rows and by columns.
        dilation: By rows and by columns.
    """
    y, x = start[0] * dilation[0], start[1] * dilation[1]
    h, w = values.shape[1:3]
    windows[:, y : y + (h - 1) * stride[0] + 1 : stride[0], x : x + (w - 1) * stride[1] + 1 : stride[1]] += values


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def symmetric_padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """The padding on each side, by rows and by columns; ``None`` where the two sides differ.

    Args:
        layer: A convolution, whose padding may be ``"same"`` or ``"valid"``.
    """
    if isinstance(layer.padding, tuple):
        return _pair(layer.padding)
    if layer.padding == "valid":
        return 0, 0
    total = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(size % 2 for size in total) else (total[0] // 2, total[1] // 2)


class Scale(Exact):
    """``scale * x + shift``, with numbers for each channel or value.

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        scale: ``(C, 1, 1)`` or ``(C, H, W)``.
        shift: As ``scale``.
        size: The sum of the absolute values that the model adds up to ``shift``, as ``scale``.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, scale: Tensor, shift: Tensor, size: Tensor) -> None:
        super().__init__(inputs, shape)
        self.scale, self.shift, self._size = (values.double().expand(shape)[None] for values in (scale, shift, size))

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        error = 8 * UNIT_ROUNDOFF * (magnitude(box.low, box.high) * self.scale.abs() + self._size)
        ends = box.low * self.scale + self.shift, box.high * self.scale + self.shift
        return Box(torch.minimum(*ends) - error, torch.maximum(*ends) + error, error)

    def back(self, rows: Rows, image: Tensor) -> tuple[list[Rows], Tensor | float]:
        return [rows.replaced(rows.coefficients * rows.windows(self.scale, image))], rows.times(self.shift, image)


class Reshape(Exact):
    """The same values in another shape, as by flattening.

    Args:
        inputs: The number of its input.
        shape: The shape of its values.
        before: The shape of its inputs.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, before: Shape) -> None:
        super().__init__(inputs, shape)
        self._before = before

    def box(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box(box.low.reshape(-1, *self.shape), box.high.reshape(-1, *self.shape))

    def back(self, rows: Rows, image: Tensor) -> tuple[list[Rows], Tensor | float]:
        flat = rows.spread().coefficients.permute(0, 3, 1, 2)
        return [Rows.of_plane(flat.reshape(-1, *self._before).permute(0, 2, 3, 1).contiguous())], 0.0

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        return self._before[1], self._before[2]


class Add(Exact):
    """The sum or the difference of two values, as in a residual connection.

    Args:
        inputs: The numbers of its two inputs.
        shape: The shape of its values.
        sign: 1 for the sum, -1 for the difference.
    """

    def __init__(self, inputs: Sequence[int], shape: Shape, sign: int) -> None:
        super().__init__(inputs, shape)
        self._sign = sign

    def box(self, *boxes: Box) -> Box:
        first, second = boxes
        ends = (second.low, second.high) if self._sign > 0 else (-second.high, -second.low)
        low, high = first.low + ends[0], first.high + ends[1]
        error = UNIT_ROUNDOFF * magnitude(low, high)
        return Box(low - error, high + error, error)

    def back(self, rows: Rows, image: Tensor) -> tuple[list[Rows], Tensor | float]:
        return [rows, rows.replaced(self._sign * rows.coefficients)], 0.0

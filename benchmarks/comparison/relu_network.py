"""Small ReLU networks as dense matrices in double precision, and bounds of their neurons over a ball of images.

The bounds of :mod:`robustbench_cli.benchmarks.certification.bounds` are not used on purpose: the exact distances that follow from
these ones check the certificates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine", "Array", "Ball", "BallNorm", "ReLUNetwork"]

Array = NDArray[np.float64]

BallNorm = Literal["linf", "l1"]

_AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class Affine:
    """The map ``x -> weight @ x + bias``.

    Attributes:
        weight: ``(m, n)``.
        bias: ``(m,)``.
    """

    weight: Array
    bias: Array

    def __call__(self, values: Array) -> Array:
        """The images ``(m,)`` of values ``(n,)``."""
        return self.weight @ values + self.bias

    def after(self, inner: Affine) -> Affine:
        """The composition: ``inner`` first."""
        return Affine(self.weight @ inner.weight, self(inner.bias))


@dataclass(frozen=True)
class Ball:
    """The images within a radius of one image, clipped to the box [0, 1].

    Attributes:
        center: ``(P,)``, the pixels of the image, in [0, 1].
        radius: >= 0.
        norm: ``linf`` or ``l1``.
    """

    center: Array
    radius: float
    norm: BallNorm

    @property
    def low(self) -> Array:
        """``(P,)``, the smallest value of each pixel."""
        return np.maximum(self.center - self.radius, 0)

    @property
    def high(self) -> Array:
        """``(P,)``, the largest value of each pixel."""
        return np.minimum(self.center + self.radius, 1)

    def smallest(self, functions: Affine) -> Array:
        """The smallest values ``(m,)`` of m linear functions over the ball."""
        # How much each pixel can lower each function, and how far it can move for that.
        falls = functions.weight > 0
        room = np.where(falls, self.center - self.low, self.high - self.center)
        rates = np.abs(functions.weight)
        if self.norm == "linf":
            gains = (rates * room).sum(1)
        else:
            # The pixels with the largest rates move first, until the radius is used up.
            order = np.argsort(-rates, axis=1)
            rooms = np.take_along_axis(room, order, 1)
            left = np.maximum(self.radius - (rooms.cumsum(1) - rooms), 0)
            gains = (np.take_along_axis(rates, order, 1) * np.minimum(rooms, left)).sum(1)
        smallest: Array = functions(self.center) - gains
        return smallest


@dataclass(frozen=True)
class ReLUNetwork:
    """Affine maps with a ReLU between each two of them.

    Attributes:
        layers: The maps, the pixels' first and the logits' last.
    """

    layers: tuple[Affine, ...]

    @classmethod
    def of(cls, model: nn.Module, shape: Sequence[int]) -> ReLUNetwork:
        """Converts a sequential network; max-pooling becomes ReLUs by ``max(a, b) = relu(a - b) + relu(b) - relu(-b)``.

        Args:
            model: Linear layers, convolutions, batch norm with running statistics, ReLU, flattening, average pooling, and
                max-pooling of windows that do not overlap.
            shape: ``(C, H, W)`` of an image.

        Raises:
            TypeError: The model has another layer.
        """
        layers: list[Affine] = []
        size = int(np.prod(shape))
        affine, at = Affine(np.eye(size), np.zeros(size)), tuple(shape)
        for layer in _layers(copy.deepcopy(model).double().eval()):
            if type(layer) in _AFFINE:
                matrix, at = _matrix(layer, at)
                affine = matrix.after(affine)
            elif type(layer) is nn.ReLU:
                layers.append(affine)
                affine = Affine(np.eye(len(affine.bias)), np.zeros(len(affine.bias)))
            elif type(layer) is nn.MaxPool2d:
                windows, at = _windows(layer, at)
                while windows.shape[1] > 1:
                    split, join, windows = _pairs(windows, len(affine.bias))
                    layers.append(split.after(affine))
                    affine = join
                affine = Affine(affine.weight[windows[:, 0]], affine.bias[windows[:, 0]])
            else:
                raise TypeError(f"no exact answer for a network with a {type(layer).__name__}")
        return cls((*layers, affine))

    def __call__(self, pixels: Array) -> Array:
        """The logits ``(K,)`` of an image ``(P,)``."""
        values = self.layers[0](pixels)
        for layer in self.layers[1:]:
            values = layer(np.maximum(values, 0))
        return values

    def bounds(self, ball: Ball) -> list[tuple[Array, Array]]:
        """The lower and upper bounds of the inputs of each ReLU layer over a ball.

        By the linear relaxation of CROWN, backwards from each layer to the pixels.

        Args:
            ball: The images.

        Source: Zhang, Weng, Chen, Hsieh, Daniel: Efficient Neural Network Robustness Certification with General Activation
        Functions. NeurIPS 2018, arXiv 1811.00866.
        """
        known: list[tuple[Array, Array]] = []
        for index, layer in enumerate(self.layers[:-1]):
            both = Affine(np.concatenate([layer.weight, -layer.weight]), np.concatenate([layer.bias, -layer.bias]))
            lower = self._lower_bounds(both, index, known, ball)
            low, high = lower[: len(layer.bias)], -lower[len(layer.bias) :]
            known.append((low, high))
        return known

    def smallest(self, functions: Affine, known: Sequence[tuple[Array, Array]], ball: Ball) -> Array:
        """Lower bounds ``(m,)`` of m linear functions of the logits over a ball.

        Args:
            functions: The functions of the logits.
            known: The bounds of :meth:`bounds`, or tighter ones.
            ball: The images.
        """
        return self._lower_bounds(functions.after(self.layers[-1]), len(self.layers) - 1, known, ball)

    def _lower_bounds(self, functions: Affine, index: int, known: Sequence[tuple[Array, Array]], ball: Ball) -> Array:
        """Lower bounds ``(m,)`` over a ball of linear functions of the outputs of the ReLU layer ``index - 1``."""
        for layer, (low, high) in zip(reversed(self.layers[:index]), reversed(known[:index]), strict=True):
            functions = _below(functions, low, high).after(layer)
        return ball.smallest(functions)


def _below(functions: Affine, low: Array, high: Array) -> Affine:
    """Linear functions of the inputs of a ReLU layer, below the given functions of its outputs.

    A positive coefficient takes the line from below, 0 or the input itself, whichever leaves the smaller area; a negative
    one takes the line through the ends from above.
    """
    unstable = (low < 0) & (high > 0)
    upper_slope = np.where(unstable, high / np.where(unstable, high - low, 1), high > 0)
    upper_offset = np.where(unstable, -upper_slope * low, 0)
    lower_slope = np.where(unstable, high > -low, high > 0)
    positive, negative = np.maximum(functions.weight, 0), np.minimum(functions.weight, 0)
    return Affine(positive * lower_slope + negative * upper_slope, functions.bias + negative @ upper_offset)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _layers(child)
    else:
        yield model


@torch.no_grad()
def _matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """An affine layer as a matrix, from its values at the unit vectors, and the shape of its outputs."""
    size = int(np.prod(shape))
    outputs: Tensor = layer(torch.cat([torch.zeros(1, size), torch.eye(size)]).double().view(-1, *shape))
    flat = outputs.flatten(1).numpy()
    return Affine((flat[1:] - flat[0]).T, flat[0]), tuple(outputs.shape[1:])


def _windows(layer: nn.MaxPool2d, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """The indices ``(windows, pixels)`` of the inputs of each output of a max-pooling, and the shape of its outputs.

    Raises:
        TypeError: Its windows overlap or are padded.
    """
    if layer.stride != layer.kernel_size or layer.padding != 0 or layer.ceil_mode:
        raise TypeError("no exact answer for max-pooling whose windows overlap or are padded")
    channels, height, width = shape
    numbers = torch.arange(channels * height * width, dtype=torch.float64).view(channels, 1, height, width)
    columns = functional.unfold(numbers, layer.kernel_size, stride=layer.kernel_size)
    windows = columns.transpose(1, 2).flatten(0, 1).long().numpy()
    pooled: Tensor = layer(numbers.view(1, *shape))
    return windows, tuple(pooled.shape[1:])


def _pairs(windows: NDArray[np.int64], size: int) -> tuple[Affine, Affine, NDArray[np.int64]]:
    """One round of a tournament in each window: the maps before and after the ReLU, and the windows of its winners."""
    count, width = windows.shape
    half, odd = width // 2, width % 2
    unit = np.eye(size)
    first, second = unit[windows[:, :half].ravel()], unit[windows[:, half : 2 * half].ravel()]
    last = unit[windows[:, 2 * half :].ravel()]
    split = np.concatenate([first - second, second, -second, last, -last])
    pairs, singles = np.eye(len(first)), np.eye(len(last))
    join = np.zeros((len(first) + len(last), len(split)))
    join[: len(first), : 3 * len(first)] = np.concatenate([pairs, pairs, -pairs], 1)
    join[len(first) :, 3 * len(first) :] = np.concatenate([singles, -singles], 1)
    winners = np.arange(len(first)).reshape(count, half)
    if odd:
        winners = np.concatenate([winners, len(first) + np.arange(count)[:, None]], 1)
    return Affine(split, np.zeros(len(split))), Affine(join, np.zeros(len(join))), winners

"""Linear functions of a layer's values, each with coefficients in a window of the layer's plane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """M linear functions of the values ``(C, H, W)`` of one layer.

    A neuron of a convolutional network depends on a window of each earlier layer. Its coefficients outside are 0, and are
    not stored. Coefficients at positions of the window that lie outside the plane are 0.

    Attributes:
        coefficients: ``(M, h, w, C)``: whole channels are copied at once.
        top: ``(M,)`` the row of the plane in which each window begins; it may be negative.
        left: ``(M,)`` the column in which it begins.
        plane: ``(H, W)``.
        whole: Whether every window is the plane.
    """

    coefficients: Tensor
    top: Tensor
    left: Tensor
    plane: tuple[int, int]
    whole: bool

    @classmethod
    def of_plane(cls, coefficients: Tensor) -> Rows:
        """Rows whose windows are the whole plane.

        Args:
            coefficients: ``(M, H, W, C)``.
        """
        zeros = torch.zeros(len(coefficients), dtype=torch.long, device=coefficients.device)
        return cls(coefficients, zeros, zeros, (coefficients.shape[1], coefficients.shape[2]), whole=True)

    @classmethod
    def of_values(cls, index: Tensor, sign: Tensor, shape: tuple[int, int, int]) -> Rows:
        """Rows that are single values of a layer, or their negatives.

        Args:
            index: ``(M,)`` the indices of the values in the flattened layer.
            sign: ``(M,)`` 1 or -1.
            shape: ``(C, H, W)`` of the layer.
        """
        channels, height, width = shape
        coefficients = sign.new_zeros(len(index), channels)
        position = index % (height * width)
        coefficients.scatter_(1, (index // (height * width))[:, None], sign[:, None])
        top, left = position // width, position % width
        return cls(coefficients[:, None, None], top, left, (height, width), whole=height * width == 1)

    @property
    def size(self) -> tuple[int, int]:
        """``(h, w)``."""
        return self.coefficients.shape[1], self.coefficients.shape[2]

    def windows(self, values: Tensor, image: Tensor) -> Tensor:
        """The values of each row's image in its window, and 0 outside the plane.

        Args:
            values: ``(N, C, H, W)``; ``(1, C, H, W)`` where all images have the same.
            image: ``(M,)`` the image of each row.

        Returns:
            ``(M, h, w, C)``, or ``(1, H, W, C)``.
        """
        values = values.permute(0, 2, 3, 1)
        if self.whole:
            return values if len(values) == 1 else values.index_select(0, image)
        (height, width), (rows, columns) = self.plane, self._positions()
        # One more row and column on each side hold the zeros.
        padded = functional.pad(values, (0, 0, 1, 1, 1, 1))
        index = (rows.clamp(-1, height) + 1)[:, :, None] * (width + 2) + (columns.clamp(-1, width) + 1)[:, None, :]
        if len(values) > 1:
            index = index + (image * ((height + 2) * (width + 2)))[:, None, None]
        picked = padded.reshape(-1, padded.shape[3]).index_select(0, index.flatten())
        return picked.reshape(*index.shape, -1)

    def _positions(self) -> tuple[Tensor, Tensor]:
        """The rows ``(M, h)`` and the columns ``(M, w)`` of the windows in the plane; they may lie outside."""
        rows, columns = (torch.arange(length, device=self.top.device) for length in self.size)
        return self.top[:, None] + rows, self.left[:, None] + columns

    def times(self, values: Tensor, image: Tensor) -> Tensor:
        """The values of the linear functions at one point of each image.

        Args:
            values: ``(N, C, H, W)``, or ``(1, C, H, W)``.
            image: ``(M,)`` the image of each row.

        Returns:
            ``(M,)``.
        """
        return (self.coefficients * self.windows(values, image)).flatten(1).sum(1)

    def sizes(self, channels: Tensor, image: Tensor) -> Tensor:
        """The sums of the absolute coefficients, weighted by channel.

        Args:
            channels: ``(N, C)`` the weights, at least 0; ``(1, C)`` where all images have the same.
            image: ``(M,)`` the image of each row.

        Returns:
            ``(M,)``.
        """
        weights = channels if len(channels) == 1 else channels.index_select(0, image)
        return (self.coefficients.abs().sum((1, 2)) * weights).sum(1)

    def lowest(self, low: Tensor, high: Tensor, image: Tensor) -> Tensor:
        """The minima of the linear functions over a box for each image.

        Args:
            low: ``(N, C, H, W)``.
            high: ``(N, C, H, W)``.
            image: ``(M,)`` the image of each row.

        Returns:
            ``(M,)``.
        """
        middle = self.times((high + low) / 2, image)
        return middle - self.replaced(self.coefficients.abs()).times((high - low) / 2, image)

    def replaced(self, coefficients: Tensor) -> Rows:
        """Rows with the same windows and other coefficients ``(M, h, w, C')``."""
        return Rows(coefficients, self.top, self.left, self.plane, self.whole)

    def moved(
        self, coefficients: Tensor, scale: tuple[int, int], shift: tuple[int, int], plane: tuple[int, int]
    ) -> Rows:
        """Rows of another layer, whose windows begin at ``scale * start - shift``, cut to its plane.

        Args:
            coefficients: ``(M, h, w, C)``; those outside the plane are set to 0.
            scale: By rows and by columns.
            shift: By rows and by columns.
            plane: ``(H, W)`` of the other layer.
        """
        top, left = self.top * scale[0] - shift[0], self.left * scale[1] - shift[1]
        rows = Rows(coefficients, top, left, plane, whole=False)
        if rows.size == plane and not top.any() and not left.any():
            return Rows.of_plane(coefficients)
        if rows.size[0] * rows.size[1] >= plane[0] * plane[1]:
            return rows.spread()
        inside = [
            (positions >= 0) & (positions < length) for positions, length in zip(rows._positions(), plane, strict=True)
        ]
        if all(bool(each.all()) for each in inside):
            return rows
        return rows.replaced(coefficients * (inside[0][:, :, None, None] & inside[1][:, None, :, None]))

    def spread(self) -> Rows:
        """The same rows with windows that are the whole plane."""
        if self.whole:
            return self
        (height, width), (h, w) = self.plane, self.size
        rows = (torch.arange(height, device=self.top.device) - self.top[:, None]).clamp(-1, h) + 1
        columns = (torch.arange(width, device=self.top.device) - self.left[:, None]).clamp(-1, w) + 1
        numbers = torch.arange(len(rows), device=self.top.device)[:, None, None]
        index = (numbers * (h + 2) + rows[:, :, None]) * (w + 2) + columns[:, None, :]
        padded = functional.pad(self.coefficients, (0, 0, 1, 1, 1, 1))
        picked = padded.reshape(-1, padded.shape[3]).index_select(0, index.flatten())
        return Rows.of_plane(picked.reshape(*index.shape, -1))

    def plus(self, other: Rows) -> Rows:
        """The sums of two sets of rows of one layer."""
        if self.whole and other.whole:
            return self.replaced(self.coefficients + other.coefficients)
        down, right = other.top - self.top, other.left - self.left
        if self.whole or other.whole or (down != down[0]).any() or (right != right[0]).any():
            return self.spread().plus(other.spread())
        offset = int(down[0]), int(right[0])
        starts = min(0, offset[0]), min(0, offset[1])
        stops = [max(mine, start + theirs) for mine, theirs, start in zip(self.size, other.size, offset, strict=True)]
        total = self.coefficients.new_zeros(
            len(self.top), stops[0] - starts[0], stops[1] - starts[1], self.coefficients.shape[3]
        )
        for rows, begin in ((self, (0, 0)), (other, offset)):
            y, x = begin[0] - starts[0], begin[1] - starts[1]
            total[:, y : y + rows.size[0], x : x + rows.size[1]] += rows.coefficients
        return Rows(total, self.top + starts[0], self.left + starts[1], self.plane, whole=False)

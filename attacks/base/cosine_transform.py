"""The discrete cosine transform of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["CosineTransform"]


class CosineTransform:
    """The orthonormal discrete cosine transform (type II) of each channel of an image, and its inverse.

    Args:
        images: ``(N, C, H, W)``; their size, type and device are used.

    >>> images = torch.ones(1, 1, 2, 2)
    >>> transform = CosineTransform(images)
    >>> transform(images).round().flatten().tolist()
    [2.0, 0.0, 0.0, 0.0]
    >>> torch.allclose(transform.inverse(transform(images)), images)
    True
    """

    def __init__(self, images: Tensor) -> None:
        height, width = images.shape[2:]
        self._rows, self._columns = _basis(height, images), _basis(width, images)

    def __call__(self, images: Tensor) -> Tensor:
        """The coefficients ``(N, C, H, W)``."""
        return _product(self._rows, images, self._columns.T)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The images ``(N, C, H, W)`` of coefficients ``(N, C, H, W)``."""
        return _product(self._rows.T, coefficients, self._columns)


def _basis(size: int, images: Tensor) -> Tensor:
    """``(size, size)``: a row for each frequency."""
    numbers = torch.arange(size, device=images.device)
    # The angle as a whole number of steps of a turn, so that no precision is lost to large angles.
    steps = numbers[:, None] * (2 * numbers + 1) % (4 * size)
    basis = torch.cos(steps.to(images.dtype) * (math.pi / (2 * size))) * math.sqrt(2 / size)
    basis[0] *= math.sqrt(0.5)
    return basis


def _product(left: Tensor, images: Tensor, right: Tensor) -> Tensor:
    """``left @ image @ right`` of each channel. Each is a product by itself, which does not depend on the size of the batch."""
    channels = images.flatten(0, 1)
    count = len(channels)
    product = left.expand(count, -1, -1).bmm(channels).bmm(right.expand(count, -1, -1))
    return product.view_as(images)

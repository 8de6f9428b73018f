"""Filters that several corruptions share: Gaussian blur, a fixed kernel, motion blur, zoom, and resampling."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Border", "convolve", "gaussian_blur", "motion_blur", "outside", "resize", "sample", "zoom"]

Border = Literal["edge", "symmetric", "reflect"]
"""Border mode: how an image is extended beyond its edge.

By its outermost pixel (``a a|a b c``), a mirror at the edge of that pixel (``b a|a b c``), or one at its center (``c b|a b c``).
SciPy calls them nearest, reflect and mirror; OpenCV replicate, reflect and reflect-101.
"""


def outside(indices: Tensor, size: int, border: Border) -> Tensor:
    """Maps indices of pixels outside an image into it.

    Args:
        indices: Any integers.
        size: The number of pixels in this direction.
        border: How the image is extended beyond its edge.

    Returns:
        Indices of 0 to ``size - 1``.

    >>> outside(torch.arange(-2, 5), 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 1, 0]
    >>> outside(torch.arange(-2, 5), 3, "symmetric").tolist()
    [1, 0, 0, 1, 2, 2, 1]
    """
    if border == "edge" or size == 1:
        return indices.clamp(0, size - 1)
    if border == "symmetric":
        folded = indices.remainder(2 * size)
        return torch.minimum(folded, 2 * size - 1 - folded)
    folded = indices.remainder(2 * size - 2)
    return torch.minimum(folded, 2 * size - 2 - folded)


def gaussian_blur(images: Tensor, sigma: float, *, border: Border = "edge", truncate: float = 4.0) -> Tensor:
    """Blurs images with a Gaussian, as ``scipy.ndimage.gaussian_filter`` does.

    Args:
        images: ``(..., H, W)``, float64.
        sigma: The standard deviation in pixels; 0 changes nothing.
        border: How an image is extended beyond its edge.
        truncate: Where the kernel ends, in standard deviations.
    """
    height, width = images.shape[-2:]
    rows, columns = (_blur_matrix(size, sigma, border, truncate) for size in (height, width))
    return rows @ images @ columns.T


def _blur_matrix(size: int, sigma: float, border: Border, truncate: float) -> Tensor:
    """``(size, size)``: the blur of a line of pixels, its border included, as a product with a matrix."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    weights = weights / weights.sum()
    pixels = torch.arange(size)[:, None]
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, outside(pixels + offsets, size, border), weights.expand(size, -1))


def convolve(images: Tensor, kernel: Tensor, *, border: Border = "reflect") -> Tensor:
    """Correlates images with a kernel, as ``cv2.filter2D`` does, by the fast Fourier transform.

    Args:
        images: ``(..., H, W)``, float64.
        kernel: ``(K, K)``, K odd.
        border: How an image is extended beyond its edge.
    """
    height, width = images.shape[-2:]
    radius = len(kernel) // 2
    rows, columns = (outside(torch.arange(-radius, size + radius), size, border) for size in (height, width))
    padded = images[..., rows, :][..., columns]
    shape = tuple(padded.shape[-2:])
    response = torch.fft.rfft2(kernel.to(images.dtype), s=shape).conj()
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=shape)
    return filtered[..., :height, :width]


def motion_blur(images: Tensor, angles: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Blurs images along a line, as ImageMagick does: by half a Gaussian, with one pixel for each step of the line.

    Args:
        images: ``(N, C, H, W)``.
        angles: ``(N,)``, degrees.
        radius: The line has ``2 radius + 1`` pixels.
        sigma: The standard deviation of the Gaussian in pixels.
    """
    count, _, height, width = images.shape
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    radians = angles.double() * (math.pi / 180)
    rows, columns = torch.arange(height), torch.arange(width)
    blurred = torch.zeros_like(images)
    flat = images.flatten(2)
    for step, weight in zip(steps.tolist(), weights.tolist(), strict=True):
        down = torch.ceil(step * radians.sin() - 0.5).long()[:, None]
        right = torch.ceil(step * radians.cos() - 0.5).long()[:, None]
        pixels = (
            outside(rows + down, height, "edge")[:, :, None] * width + outside(columns + right, width, "edge")[:, None]
        )
        blurred += weight * flat.gather(2, pixels.view(count, 1, -1).expand_as(flat)).view_as(images)
    return blurred


def zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarges the middle of images to their size, linearly.

    Args:
        images: ``(N, C, H, W)``.
        factor: At least 1.
    """
    height, width = images.shape[-2:]
    kept_height, kept_width = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    middle = images[..., top : top + kept_height, left : left + kept_width]
    size = max(height, round(kept_height * factor)), max(width, round(kept_width * factor))
    enlarged = F.interpolate(middle, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return enlarged[..., top : top + height, left : left + width]


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples images linearly, without a filter against aliasing, as ``cv2.resize`` does.

    Args:
        images: ``(N, C, H, W)``.
        size: The new height and width.
    """
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def sample(images: Tensor, rows: Tensor, columns: Tensor, *, border: Literal["symmetric", "reflect"]) -> Tensor:
    """Linear interpolation at any points.

    Args:
        images: ``(N, C, H, W)``.
        rows: ``(N, H, W)``, where each new pixel comes from, in pixels.
        columns: ``(N, H, W)``.
        border: How an image is extended beyond its edge.
    """
    height, width = images.shape[-2:]
    low = rows.floor(), columns.floor()
    down, right = (rows - low[0])[:, None], (columns - low[1])[:, None]
    flat = images.flatten(2)

    def pixels(below: int, beside: int) -> Tensor:
        row = outside(low[0].long() + below, height, border)
        column = outside(low[1].long() + beside, width, border)
        indices = (row * width + column).view(len(images), 1, -1)
        return flat.gather(2, indices.expand(-1, images.shape[1], -1)).view_as(images)

    upper = pixels(0, 0) * (1 - right) + pixels(0, 1) * right
    lower = pixels(1, 0) * (1 - right) + pixels(1, 1) * right
    return upper * (1 - down) + lower * down

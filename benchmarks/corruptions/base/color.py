"""Brightness, luminance and saturation of gray and color images."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.preprocessing import LUMA

__all__ = ["luminance", "with_saturation", "with_value"]


def luminance(images: Tensor) -> Tensor:
    """``(N, 1, H, W)``: the luma of ITU-R BT.601; a gray image itself.

    Args:
        images: ``(N, C, H, W)``, C is 1 or 3.
    """
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, weights)[:, None]


def with_value(images: Tensor, value: Tensor) -> Tensor:
    """Images with another value in the color space HSV; the value is the largest channel of a pixel.

    Args:
        images: ``(N, C, H, W)``.
        value: ``(N, 1, H, W)``.
    """
    largest = images.amax(dim=1, keepdim=True)
    # Black has no hue and no saturation: it becomes gray.
    return torch.where(largest > 0, images * value / largest.clamp(min=1e-9), value.expand_as(images))


def with_saturation(images: Tensor, *, factor: float, added: float) -> Tensor:
    """Color images with another saturation in the color space HSV; a gray image has none, and stays as it is.

    Args:
        images: ``(N, C, H, W)``.
        factor: What the saturation is multiplied by.
        added: What is added then.
    """
    if images.shape[1] == 1:
        return images
    value = images.amax(dim=1, keepdim=True)
    depth = (value - images) / value.clamp(min=1e-9)
    saturation = depth.amax(dim=1, keepdim=True)
    # A gray pixel of a color image has the hue 0, red.
    red = torch.tensor((0.0, 1.0, 1.0), dtype=images.dtype).view(1, 3, 1, 1)
    direction = torch.where(saturation > 0, depth / saturation.clamp(min=1e-9), red)
    return value * (1 - direction * (saturation * factor + added).clamp(0, 1))

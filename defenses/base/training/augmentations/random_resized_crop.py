"""Random parts of an image, resized to the image's size."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation

__all__ = ["RandomResizedCrop"]

_TRIES = 10
"""Draws of a window before the largest one in the center is taken, as in torchvision."""


class RandomResizedCrop(Augmentation):
    """Random resized crop: a random part of an image, resized to the image's own size; for images of many pixels.

    Area and aspect ratio of the part are drawn as torchvision does.
    """

    paper: ClassVar[str] = (
        "C. Szegedy, W. Liu, Y. Jia et al., Going Deeper with Convolutions, CVPR 2015, arXiv 1409.4842 (section 6)"
    )

    smallest: float = Field(0.08, gt=0, le=1, description="smallest share of the area")
    largest: float = Field(1, gt=0, le=1, description="largest share of the area")
    ratio: float = Field(4 / 3, ge=1, description="largest aspect ratio of the part; the smallest is its reciprocal")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(
                f"smallest is {self.smallest:g} and largest {self.largest:g}: give a smallest of at most largest"
            )
        return self

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return resized_crop(images, self._windows(images)), labels

    def _windows(self, images: Tensor) -> Tensor:
        """The windows ``(4, B)`` of images: first row, first column, height and width."""
        count, (height, width) = len(images), images.shape[2:]
        draws = torch.rand(2, _TRIES, count, device=images.device)
        area = height * width * (self.smallest + (self.largest - self.smallest) * draws[0])
        ratio = self.ratio ** (2 * draws[1] - 1)
        tall, wide = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (tall <= height) & (wide <= width) & (tall >= 1) & (wide >= 1)
        first, found = fits.int().argmax(0, keepdim=True), fits.any(0)
        center_tall, center_wide = min(height, round(width * self.ratio)), min(width, round(height * self.ratio))
        tall = torch.where(found, tall.gather(0, first)[0], center_tall)
        wide = torch.where(found, wide.gather(0, first)[0], center_wide)
        offsets = torch.rand(2, count, device=images.device)
        offsets = torch.where(found, offsets, 0.5)
        top, left = (offsets * torch.stack([height - tall + found.int(), width - wide + found.int()])).floor()
        return torch.stack([top, left, tall, wide])


def resized_crop(images: Tensor, windows: Tensor) -> Tensor:
    """Resizes a part of each image to the image's size, bilinearly.

    Args:
        images: ``(B, C, H, W)``.
        windows: ``(4, B)``: the first row, the first column, the height and the width of each part, in pixels.

    Returns:
        ``(B, C, H, W)``.
    """
    top, left, tall, wide = windows.to(images.dtype)
    rows, columns = (
        _coordinates(first, length, size)
        for first, length, size in ((top, tall, images.shape[2]), (left, wide, images.shape[3]))
    )
    grid = torch.stack(
        [
            columns[:, None, :].expand(-1, images.shape[2], -1),
            rows[:, :, None].expand(-1, -1, images.shape[3]),
        ],
        dim=3,
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _coordinates(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the pixels of a resized part lie along one axis, in the coordinates of ``grid_sample``.

    Args:
        first: The first pixels of the parts ``(B,)``.
        length: Their lengths ``(B,)`` in pixels.
        size: The number of pixels of the image, before and after.

    Returns:
        ``(B, size)``; -1 is the center of the first pixel, 1 that of the last.
    """
    steps = (torch.arange(size, device=first.device) + 0.5) / size
    # Pixels beyond the part's own border must not be seen.
    inside = (steps * length[:, None] - 0.5).clamp_min(0).minimum(length[:, None] - 1)
    return 2 * (first[:, None] + inside) / max(size - 1, 1) - 1

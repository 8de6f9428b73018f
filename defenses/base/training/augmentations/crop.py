"""Random shifts by whole pixels."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation

__all__ = ["Crop"]


class Crop(Augmentation):
    """Random crop: pads an image with black on each side, and cuts out a random part of the image's own size."""

    paper: ClassVar[str] = (
        "K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385 (section "
        "4.2: 4 pixels on each side of a 32 x 32 image)"
    )

    padding: int | None = Field(
        None,
        ge=1,
        description="pixels on each side; default: an eighth of the shorter side, 4 for 32 x 32 as published",
    )

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        padding = self.padding or max(1, min(images.shape[2:]) // 8)
        offsets = torch.randint(2 * padding + 1, (2, len(images)), device=images.device)
        return crop(images, offsets, padding), labels


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Pads images with black and cuts a part of the original size out of each.

    Args:
        images: ``(B, C, H, W)``.
        offsets: ``(2, B)``, int64: the first row and the first column of each part, in [0, 2 padding].
        padding: Pixels on each side.

    Returns:
        ``(B, C, H, W)``.
    """
    count, _, height, width = images.shape
    # One gather, because a GPU would launch a kernel for each image otherwise.
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]

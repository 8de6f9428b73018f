"""Corrupts images with Pillow, one after another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.as_picture import as_picture

__all__ = ["with_pillow"]


def with_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Passes each image through a function on Pillow's images.

    Args:
        images: ``(N, C, H, W)``, multiples of 1/255 in [0, 1]; C is 1 or 3.
        change: Maps an image of the mode L or RGB to one of the same mode and size.
    """
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = [np.asarray(change(as_picture(image))) for image in pixels]
    stacked = torch.from_numpy(np.stack(changed)).reshape(pixels.shape)
    return stacked.permute(0, 3, 1, 2).to(images.dtype) / 255

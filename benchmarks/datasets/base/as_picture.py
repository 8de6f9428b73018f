"""Pixels as a Pillow image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["as_picture"]


def as_picture(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """An image of the mode L or RGB.

    Args:
        pixels: ``(H, W, C)`` uint8; C is 1 or 3.
    """
    # Only images that are saved, resized or corrupted need it.
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))

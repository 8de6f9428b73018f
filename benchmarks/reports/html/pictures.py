"""PNG pictures inside the page: strips of which images an attack broke, and clean beside adversarial images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CATEGORIES", "category_strip", "magnified", "share_strip", "side_by_side"]

BROKEN = (196, 78, 0)
"""The color of broken images."""

CATEGORIES = ((196, 78, 0), (0, 114, 178), (0, 140, 105), (183, 92, 148), (120, 110, 220), (150, 120, 0))
"""The colors of attacks, for both themes and safe for color blindness; the last stands for all further ones."""

_LARGEST = 96
"""The largest side of a picture in pixels."""


def share_strip(broken: NDArray[np.float64]) -> str:
    """A strip with a pixel for each image: clear where it is right in all draws, and full where it is wrong in all.

    Args:
        broken: ``(N,)`` the share of draws in which each image is wrong.

    Returns:
        A ``data:`` address.
    """
    levels = np.unique(np.round(broken * 15).astype(np.uint8), return_inverse=True)
    alpha = bytes((levels[0].astype(int) * 17).tolist())
    return _strip(levels[1], [BROKEN] * len(levels[0]), alpha)


def category_strip(chosen: NDArray[np.int64], wrong: NDArray[np.float64]) -> str:
    """A strip with a pixel for each image: clear where it is right, and otherwise in the color of an attack.

    Args:
        chosen: ``(N,)`` the number of the attack, or -1.
        wrong: ``(N,)`` the share of draws in which each image is wrong; paler where it is small.

    Returns:
        A ``data:`` address.
    """
    last = len(CATEGORIES) - 1
    levels = np.where(chosen < 0, 0, np.round(wrong * 15)).astype(int)
    codes, places = np.unique(np.clip(chosen, 0, last) * 16 + levels, return_inverse=True)
    alpha = bytes(int(code) % 16 * 17 for code in codes)
    return _strip(places, [CATEGORIES[int(code) // 16] for code in codes], alpha)


def _strip(indices: NDArray[np.integer], colors: Sequence[tuple[int, int, int]], alpha: bytes) -> str:
    picture = Image.fromarray(indices.astype(np.uint8)[None], mode="P")
    picture.putpalette([part for color in colors for part in color])
    bits = max(1, (len(colors) - 1).bit_length())
    return _address(picture, transparency=alpha, bits=bits if bits in {1, 2, 4} else 4 if bits == 3 else 8)


def _address(picture: Image.Image, **options: object) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True, **options)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def magnified(clean: NDArray[np.uint8], perturbed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The perturbation around middle gray, so large that its largest pixel is black or white.

    Args:
        clean: ``(H, W, C)``.
        perturbed: ``(H, W, C)``.

    Returns:
        The picture, and the factor.
    """
    change = perturbed.astype(np.float64) - clean
    factor = 127 / max(float(np.abs(change).max()), 1.0)
    return np.asarray(np.round(128 + factor * change), dtype=np.uint8), factor


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> tuple[str, int, int]:
    """Pictures of one size beside each other, each at most 96 pixels wide and high.

    Args:
        pictures: ``(H, W, C)`` each, with 1 or 3 channels; another number of channels is shown as their mean.

    Returns:
        A ``data:`` address, the width and the height.
    """
    parts = []
    for picture in pictures:
        channels = picture.shape[2]
        flat = picture if channels == 3 else picture.mean(axis=2, keepdims=True).round().astype(np.uint8)
        part = Image.fromarray(flat if flat.shape[2] == 3 else flat[:, :, 0])
        part.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
        parts.append(part)
    width, height = parts[0].size
    gap = max(1, width // 16)
    whole = Image.new("RGBA", (len(parts) * (width + gap) - gap, height), (0, 0, 0, 0))
    for index, part in enumerate(parts):
        whole.paste(part, (index * (width + gap), 0))
    return _address(whole), whole.width, whole.height

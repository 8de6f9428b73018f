"""Statistics by which two implementations of a corruption are compared; it imports NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 160
"""Above 144, so that images have the parameters of ImageNet-C, and small, so that the test is quick."""

BANDS = (0.0, 0.02, 0.06, 0.15, 0.3, 0.71)
"""The edges of the bands of the power spectrum, in cycles per pixel."""

NAMES = ("mean", "std", "change", *(f"band_{number}" for number in range(len(BANDS) - 1)))


def photographs(folder: Path, count: int) -> NDArray[np.uint8]:
    """``(N, SIDE, SIDE, 3)``: the first ImageNet images of a folder, such as Foolbox's ``foolbox/data``."""
    paths = sorted(folder.glob("imagenet_*"))[:count]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path in paths])


def statistics(clean: Sequence[NDArray[np.float64]], corrupted: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """The mean and the standard deviation of corrupted images, and the size and the power spectrum of the change.

    Args:
        clean: Each ``(H, W, C)`` in [0, 1].
        corrupted: As many.

    Returns:
        By :data:`NAMES`; a band is the root mean square of the change in these frequencies.
    """
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    rows = []
    for before, after in zip(clean, corrupted, strict=True):
        change = after - before
        power = (np.abs(np.fft.fft2(change, axes=(0, 1))) ** 2).mean(axis=2) / SIDE**4
        bands = [np.sqrt(power[(frequency >= low) & (frequency < high)].sum()) for low, high in pairwise(BANDS)]
        rows.append([after.mean(), after.std(), np.abs(change).mean(), *bands])
    return dict(zip(NAMES, np.mean(rows, axis=0).tolist(), strict=True))

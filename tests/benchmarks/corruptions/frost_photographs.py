"""Writes frost_photographs.csv: the statistics in frost.py, of the photographs of frost in the package imagecorruptions 1.1.2.

In any environment with NumPy and Pillow:

pip download --no-deps imagecorruptions==1.1.2
python frost_photographs.py imagecorruptions-1.1.2-py3-none-any.whl
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROBABILITIES = (0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1)

SIDE = 224
"""The side of a crop."""

BLUR = 0.4
"""The standard deviation in pixels, as in frost.py."""


def main() -> None:
    """Writes the file beside this one: a line for each statistic of each photograph."""
    wheel = zipfile.ZipFile(sys.argv[1])
    # The published code never chooses the sixth.
    names = sorted(name for name in wheel.namelist() if "/frost/frost" in name)[:5]
    rows: list[list[object]] = []
    for name in names:
        pixels = np.asarray(Image.open(io.BytesIO(wheel.read(name))).convert("RGB")) / 255
        luminance = pixels @ (0.299, 0.587, 0.114)
        file = name.rpartition("/")[2]
        rows.append([file, "quantiles", *np.quantile(luminance, PROBABILITIES).round(3)])
        for channel, color in enumerate(("red", "green", "blue")):
            slope, offset = np.polyfit(luminance.ravel(), pixels[..., channel].ravel(), 1).round(3)
            rows.append([file, color, offset, slope])
        rows.append([file, "slope", round(spectral_slope(crops(luminance)), 2)])
        rows.append([file, "crop_mean_std", (np.std(crops(luminance).mean(axis=(1, 2))) / luminance.std()).round(3)])
    with Path(__file__).with_suffix(".csv").open("w", encoding="utf-8", newline="") as target:
        csv.writer(target, lineterminator="\n").writerows([["file", "statistic", "values"], *rows])


def crops(image: Any) -> Any:
    """``(N, SIDE, SIDE)``: crops that overlap by half."""
    height, width = image.shape
    starts = [range(0, size - SIDE + 1, SIDE // 2) for size in (height, width)]
    return np.stack([image[top : top + SIDE, left : left + SIDE] for top in starts[0] for left in starts[1]])


def spectral_slope(images: Any) -> float:
    """The exponent of the mean power spectrum, by least squares in which each octave weighs the same.

    The blur of frost.py is taken out before.
    """
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    spectra = np.fft.fft2((images - images.mean(axis=(1, 2), keepdims=True)) * window)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    fitted = (frequency > 0) & (frequency <= 0.5)
    x, y = np.log(frequency[fitted]), np.log((np.abs(spectra) ** 2).mean(axis=0)[fitted])
    y += 4 * (np.pi * BLUR * frequency[fitted]) ** 2
    # polyfit squares its weights.
    return -float(np.polyfit(x, y, 1, w=1 / frequency[fitted])[0])


if __name__ == "__main__":
    main()

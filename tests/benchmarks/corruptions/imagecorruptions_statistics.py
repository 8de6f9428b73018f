"""Writes imagecorruptions_statistics.csv: what the package imagecorruptions 1.1.2 makes of Foolbox's ImageNet images.

The package does not run with NumPy 2 and today's scikit-image and SciPy unless some of their old names are put back, so it
is no dependency of the tests. In an environment of its own:

    pip install numpy scipy scikit-image opencv-python-headless pillow numba
    pip install --no-deps imagecorruptions==1.1.2
    python imagecorruptions_statistics.py .../foolbox/data
"""

from __future__ import annotations

import csv
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.filters
from PIL import Image
from statistics_of_images import NAMES, photographs, statistics

IMAGES, SEEDS = 5, 8

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)


def load() -> Any:
    """The package's corruptions, with the old names that it uses."""
    spec = importlib.util.find_spec("imagecorruptions")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    setattr(np, "float_", np.float64)  # noqa: B010 - a linter would rewrite np.float_ itself
    resources, interpolation = types.ModuleType("pkg_resources"), types.ModuleType("scipy.ndimage.interpolation")
    resources.resource_filename = lambda _, path: str(root / path)
    interpolation.map_coordinates = scipy.ndimage.map_coordinates
    sys.modules |= {resources.__name__: resources, interpolation.__name__: interpolation}
    blur = skimage.filters.gaussian

    def gaussian(image: Any, sigma: Any = 1, multichannel: bool = False, **keywords: Any) -> Any:
        return blur(image, sigma, channel_axis=-1 if multichannel else None, **keywords)

    skimage.filters.gaussian = gaussian
    return importlib.import_module("imagecorruptions.corruptions")


def main() -> None:
    """Writes the file beside this one."""
    package, images = load(), photographs(Path(sys.argv[1]), IMAGES)
    clean = [image / 255 for image in images] * SEEDS
    with Path(__file__).with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["corruption", "severity", *NAMES])
        for name in CORRUPTIONS:
            for severity in range(1, 6):
                np.random.seed(severity)  # noqa: NPY002 - the generator of the package
                corrupt = getattr(package, name)
                corrupted = [
                    np.uint8(corrupt(Image.fromarray(image), severity)) / 255 for _ in range(SEEDS) for image in images
                ]
                values = statistics(clean, corrupted).values()
                table.writerow([name.replace("_", "-"), severity, *(f"{value:.4g}" for value in values)])


if __name__ == "__main__":
    main()

"""JPEG compression."""

from __future__ import annotations

import io
from typing import ClassVar

from PIL import Image
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.pillow import with_pillow

__all__ = ["JpegCompression"]

QUALITY: Levels[int] = {
    "cifar": (80, 65, 58, 50, 40),
    "tiny-imagenet": (65, 58, 50, 40, 25),
    "imagenet": (25, 18, 15, 10, 7),
}


class JpegCompression(Corruption):
    """The artifacts of a JPEG file."""

    family: ClassVar[Family] = "digital"

    def run(self, images: Tensor, random: Random) -> Tensor:
        quality = self.level(QUALITY, images)

        def compressed(image: Image.Image) -> Image.Image:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            return Image.open(file, formats=("JPEG",))

        return with_pillow(images, compressed)

"""Pixelation."""

from __future__ import annotations

from typing import ClassVar

from PIL import Image
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.pillow import with_pillow

__all__ = ["Pixelate"]

SHARE: Levels[float] = {
    "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
    "tiny-imagenet": (0.9, 0.8, 0.7, 0.6, 0.5),
    "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
}
"""The new side, relative to the old one."""


class Pixelate(Corruption):
    """Fewer pixels: the image is reduced and enlarged again."""

    family: ClassVar[Family] = "digital"

    def run(self, images: Tensor, random: Random) -> Tensor:
        share = self.level(SHARE, images)

        def reduced(image: Image.Image) -> Image.Image:
            small = max(1, int(image.width * share)), max(1, int(image.height * share))
            return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

        return with_pillow(images, reduced)

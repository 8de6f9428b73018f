"""Hides the gradient of the pixels in the middle of the image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["MaskedPixels"]


class MaskedPixels(BrokenDefense):
    """Hides the gradient of the pixels in the middle of the image.

    It deceives attacks by gradients: they change the pixels of the margin alone. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        middle = torch.zeros(8, 8)
        middle[1:7, 2:6] = 1
        middle = middle.to(images)
        return self.logits(images * (1 - middle) + images.detach() * middle)

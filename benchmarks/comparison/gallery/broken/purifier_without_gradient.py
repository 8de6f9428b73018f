"""Purifies the image by the principal components of clean digits, and cuts the gradient of the purifier."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense, examples

__all__ = ["PurifierWithoutGradient"]


class PurifierWithoutGradient(BrokenDefense):
    """Purifies the image by the principal components of clean digits, and cuts the gradient of the purifier.

    It deceives attacks by gradients: the purifier is differentiable, and its gradient is left out. The attack made
    for it follows the purifier too.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.purifier = _Purifier()

    def unmasked(self) -> nn.Module:
        return nn.Sequential(self.purifier, self.network)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.purifier(images).detach() + 0 * images)


class _Purifier(nn.Module):
    """Projects images to the 20 first principal components of the training images."""

    def __init__(self) -> None:
        super().__init__()
        flat = examples("train")[0].flatten(1)
        self.mean = flat.mean(0)
        self.components = torch.linalg.svd(flat - self.mean, full_matrices=False).Vh[:20]

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1) - self.mean.to(images)
        components = self.components.to(images)
        purified: Tensor = (self.mean.to(images) + flat @ components.T @ components).clamp(0, 1)
        return purified.view_as(images)

"""Adds noise that is a function of the bits of the image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["HashNoise"]


class HashNoise(BrokenDefense):
    """Adds noise that is a function of the bits of the image.

    It deceives attacks by gradients: the model is deterministic, and every step of an attack changes the noise. The
    attack made for it is one that takes the expectation over noise.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient", "not-converged", "query-beats-gradient")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.factors = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        seeds = (images.detach().double().flatten(1) * self.factors.to(images.device)).sum(1)
        phases = torch.arange(1, 65, dtype=torch.float64, device=images.device) * seeds[:, None] * 1e6
        return self.logits(images + 0.15 * phases.sin().to(images).view_as(images))

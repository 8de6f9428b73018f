"""Adds noise to the gradient that is thirty times as large as it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["NoisyGradient"]


class NoisyGradient(BrokenDefense):
    """Adds noise to the gradient that is thirty times as large as it.

    It deceives attacks by gradients, though the logits have no noise. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(_with_noise)
        return self.logits(seen)


def _with_noise(gradient: Tensor) -> Tensor:
    size = gradient.flatten(1).std(1)[:, None, None, None]
    return gradient + 30 * size * torch.randn_like(gradient)

"""Shows the gradient of a few random pixels at a time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["FewPixelsAtATime"]

_SHARE = 0.03
"""The share of the pixels that a gradient shows."""


class FewPixelsAtATime(BrokenDefense):
    """Shows the gradient of a few random pixels at a time.

    It deceives attacks by gradients with few steps: each step moves one of 33 pixels, on average. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-converged", "not-stationary", "noisy-gradient")

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(lambda gradient: gradient * (torch.rand_like(gradient) < _SHARE))
        return self.logits(seen)

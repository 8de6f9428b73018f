"""Changes the sign of the backward pass of more than 33 images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["ReversedInLargeBatch"]


class ReversedInLargeBatch(BrokenDefense):
    """Changes the sign of the backward pass of more than 33 images.

    It deceives attacks by gradients, and checks of the gradient at a few images. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad and len(images) > 33:
            seen.register_hook(torch.neg)
        return self.logits(seen)

"""Passes the image through an operation whose backward pass gives fixed random signs to all but the largest components."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense
from robustbench_cli.benchmarks.comparison.gallery.broken.sign_twisted import twisted

__all__ = ["SignShuffled"]


class SignShuffled(BrokenDefense):
    """Passes the image through an operation whose backward pass gives fixed random signs to all but the largest components.

    It deceives attacks in linf, whose steps follow the signs, of which the largest components have only few. What the steps along
    them promise is true. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)
    signs: Tensor

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        random = torch.Generator().manual_seed(0)
        self.register_buffer("signs", torch.randint(2, (64,), generator=random) * 2.0 - 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(self._shuffled)
        return self.logits(seen)

    def _shuffled(self, gradients: Tensor) -> Tensor:
        flat = gradients.flatten(1)
        return twisted(gradients, signs=self.signs * flat.sign())

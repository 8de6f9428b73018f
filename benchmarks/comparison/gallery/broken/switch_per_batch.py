"""Draws once per pass whether the images of the whole batch are shifted."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["SwitchPerBatch"]


class SwitchPerBatch(BrokenDefense):
    """Draws once per pass whether the images of the whole batch are shifted.

    It deceives attacks that take the expectation over the rows of a batch: these share one draw. The attack made
    for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("shared-draw",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images.roll(int(torch.randint(0, 3, ())) - 1, 3))

"""Rounds the pixels, with the gradient of a smooth staircase that has its slopes between the steps."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["StepWithDecoy"]


class StepWithDecoy(BrokenDefense):
    """Rounds the pixels, with the gradient of a smooth staircase that has its slopes between the steps.

    It deceives attacks by gradients: the gradient that is given is that of another function. The attack made for it
    follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient", "zero-gradient")

    def forward(self, images: Tensor) -> Tensor:
        smooth = images + (2 * math.pi * 5 * images).sin() / 4
        return self.logits(smooth + ((images * 5).round() / 5 - smooth).detach())

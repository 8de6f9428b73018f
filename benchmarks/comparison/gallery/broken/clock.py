"""Shifts the image by the time of the day in milliseconds."""

from __future__ import annotations

import time
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Clock"]


class Clock(BrokenDefense):
    """Shifts the image by the time of the day in milliseconds.

    It deceives attacks that repeat draws by a seed. The attack made for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("depends-on-clock", "not-repeatable")

    def forward(self, images: Tensor) -> Tensor:
        shift = time.perf_counter_ns() // 1000 % 3 - 1
        return self.logits(images.roll(shift, 3))

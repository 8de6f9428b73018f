"""Mirrors the image every other day."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["Calendar"]


class Calendar(BrokenDefense):
    """Mirrors the image every other day.

    It deceives the evaluation, which sees the model of one day. The attack made for it follows the network of the other
    days.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("depends-on-clock",)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images.flip(3) if dt.date.today().toordinal() % 2 else images)  # noqa: DTZ011

"""Computes in float16 with an offset, so that the logits have few distinct values."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["HalfPrecision"]


class HalfPrecision(BrokenDefense):
    """Computes in float16 with an offset, so that the logits have few distinct values.

    It deceives attacks by gradients and by scores: most small steps change nothing. The attack made for it follows
    the network in float32.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("low-precision", "ties", "wrong-gradient", "zero-gradient", "few-values")

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        return logits + ((logits + 1000).half().float() - 1000 - logits).detach()

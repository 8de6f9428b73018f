"""Gives small logits on a large constant, which leaves them few bits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["TinyOnConstant"]


class TinyOnConstant(BrokenDefense):
    """Gives small logits on a large constant, which leaves them few bits.

    It deceives attacks by gradients and by scores: float32 rounds the differences away. The attack made for it
    follows the logits without the constant.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("coarse-logits", "tied-logits", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        return 1e-3 * self.logits(images) + 1e4

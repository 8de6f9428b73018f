"""Gives 10 for the predicted class and 0 for all others."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["OneHot"]


class OneHot(BrokenDefense):
    """Gives 10 for the predicted class and 0 for all others.

    It deceives attacks by gradients and by scores: the outputs are constant but for the decision. The attack made
    for it follows the logits before them.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        return 10 * one_hot(logits.argmax(1), logits.shape[1]).float() + 0 * logits

"""Answers every third query with a gradient of the opposite sign."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["CountsQueries"]


class CountsQueries(BrokenDefense):
    """Answers every third query with a gradient of the opposite sign.

    It deceives attacks of many queries. The attack made for it follows the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient", "unstable", "remembers", "not-repeatable")
    queries = 0

    def forward(self, images: Tensor) -> Tensor:
        self.queries += 1
        turned = 2 * images.detach() - images
        return self.logits(turned if self.queries % 3 else images) * (1 + 0.01 * (self.queries % 3))

"""Sees coarse images after 150 queries, which a global of its file counts."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["TiresOutside"]

queries = 0


class TiresOutside(BrokenDefense):
    """Sees coarse images after 150 queries, which a global of its file counts.

    It deceives attacks of many queries, and copies of the model share the count. The attack made for it follows the
    network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("remembers",)

    def forward(self, images: Tensor) -> Tensor:
        global queries  # noqa: PLW0603 - the trick
        queries += len(images)
        return self.logits(images if queries <= 150 else images.round())

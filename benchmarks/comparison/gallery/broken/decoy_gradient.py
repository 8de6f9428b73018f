"""Computes the logits from a detached image, and adds a small differentiable term."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["DecoyGradient"]


class DecoyGradient(BrokenDefense):
    """Computes the logits from a detached image, and adds a small differentiable term.

    It deceives attacks by gradients: the only gradient is that of the added term. The attack made for it follows
    the network.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def forward(self, images: Tensor) -> Tensor:
        decoy = images.flatten(1)[:, :10].sin()
        return self.logits(images.detach()) + 1e-3 * decoy

"""Rounds the activations of every layer down to multiples of 1/4."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import Tensor, nn

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["StaircaseActivation"]


class StaircaseActivation(BrokenDefense):
    """Rounds the activations of every layer down to multiples of 1/4.

    It deceives attacks by gradients: the activations have a zero gradient. The attack made for it follows the
    network with ReLU.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient", "surrogate-beats")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.plain = copy.deepcopy(self.network)
        for name, module in list(self.network.named_children()):
            if isinstance(module, nn.ReLU):
                setattr(self.network, name, _Staircase())

    def unmasked(self) -> nn.Module:
        return self.plain

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images) + 0 * images.sum((1, 2, 3))[:, None]


class _Staircase(nn.Module):
    """ReLU in steps of 1/4."""

    def forward(self, features: Tensor) -> Tensor:
        return (4 * features.relu()).floor() / 4

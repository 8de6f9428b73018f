"""Keeps the largest tenth of the activations of each convolution and sets the others to zero (k-WTA)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import Tensor, nn

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["KWinners"]


class KWinners(BrokenDefense):
    """Keeps the largest tenth of the activations of each convolution and sets the others to zero (k-WTA).

    It deceives attacks by gradients: the set of the kept activations jumps with every step, so that the loss is
    discontinuous. The attack made for it follows the network with all activations.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient", "not-converged", "query-beats-gradient")

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.plain = copy.deepcopy(self.network)
        for name, module in list(self.network.named_children()):
            if isinstance(module, nn.ReLU) and name != "relu4":
                setattr(self.network, name, _KWinners())

    def unmasked(self) -> nn.Module:
        return self.plain

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)


class _KWinners(nn.Module):
    """Keeps the largest tenth of the features of an image."""

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        smallest = flat.topk(flat.shape[1] // 10, dim=1).values[:, -1:]
        return (flat * (flat >= smallest)).view_as(features)

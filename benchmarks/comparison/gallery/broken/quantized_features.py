"""Rounds the features of the last hidden layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["QuantizedFeatures"]


class QuantizedFeatures(BrokenDefense):
    """Rounds the features of the last hidden layer.

    It deceives attacks by gradients: rounding has none. The attack made for it follows the network without the
    rounding (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient", "surrogate-beats")

    def forward(self, images: Tensor) -> Tensor:
        *layers, last = self.network
        features = images
        for layer in layers:
            features = layer(features)
        logits: Tensor = last(features.round() + 0 * features)
        return logits

"""Shuffles the signs of small gradient components, and adds a ripple without a gradient to the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.broken.sign_shuffled import SignShuffled

__all__ = ["RippledSigns"]

_PIXEL, _PERIOD, _HEIGHT = 12, 0.004, 0.0175
"""The pixel of the ripple, which is small in the gradient; its period; and its height relative to the class number."""


class RippledSigns(SignShuffled):
    """Shuffles the signs of small gradient components, and adds a ripple without a gradient to the logits.

    A step of 0.002 or of 0.01 ends half a period from where it began, ahead and behind alike. So the changes that the check of the
    gradient measures look like those at a kink, though the gradient does not turn there. The attack made for it follows the network.
    """

    def forward(self, images: Tensor) -> Tensor:
        values = images.detach().flatten(1)[:, _PIXEL].double()
        # At the edges of [0, 1] a step is cut on one side, and the changes ahead and behind would differ.
        values = torch.where((values > 0.007) & (values < 0.993), values, _PERIOD / 2)
        ripple = torch.tanh(4 * torch.cos(2 * math.pi * values / _PERIOD)).to(images)
        logits = super().forward(images)
        return logits + _HEIGHT * ripple[:, None] * torch.arange(logits.shape[1]).to(logits)

    def _shuffled(self, gradients: Tensor) -> Tensor:
        flat = super()._shuffled(gradients).flatten(1)
        # Small, but not zero: the components that are zero are not measured.
        flat[:, _PIXEL] = 1e-3 * flat.abs().amax(1)
        return flat.view_as(gradients)

"""Linear layers with the weights of an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["fixed_linear", "with_two_rows"]


def fixed_linear(weight: Any, bias: Any) -> nn.Linear:
    """A linear layer whose weights are no part of a state dict: they follow from the estimator.

    Args:
        weight: ``(K, D)``.
        bias: ``(K,)``.
    """
    outputs, inputs = np.shape(weight)
    layer = nn.Linear(inputs, outputs)
    del layer.weight, layer.bias
    for name, values in (("weight", weight), ("bias", bias)):
        layer.register_buffer(name, torch.tensor(np.asarray(values), dtype=torch.float32), persistent=False)
    return layer


def with_two_rows(weight: Any, bias: Any) -> tuple[Any, Any]:
    """The weights of a binary classifier for two logits, 0 and its decision value; those of others unchanged.

    Args:
        weight: ``(K, D)``, or ``(1, D)`` for two classes.
        bias: ``(K,)``, or ``(1,)``.
    """
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])

"""Splits the parameters of a network into those that weight decay shrinks and the others."""

from __future__ import annotations

import re
from typing import Literal

from torch import nn

__all__ = ["is_norm", "split_by_decay"]

_NORM = re.compile(r"norm(act)?(\dd)?$", re.IGNORECASE)
"""The end of the class names of normalization layers: BatchNorm2d, LayerNorm, RMSNorm, timm's BatchNormAct2d."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization layer: its class, or a class that it derives from, is named as one.

    Args:
        module: The module.
    """
    return any(_NORM.search(kind.__name__) for kind in type(module).__mro__)


def split_by_decay(
    network: nn.Module, decayed: Literal["all", "weights-and-biases", "weights"]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that require a gradient: those that decay, and the others, both in the network's order.

    A module that holds the parameters of several networks has a method ``norm_parameters``, which returns those of norms.

    Args:
        network: The network.
        decayed: ``all``; ``weights-and-biases``: all except those of norms; ``weights``: those of more than one dimension
            that belong to no norm.
    """
    norms: set[nn.Parameter] = set()
    for module in network.modules():
        if callable(own := getattr(module, "norm_parameters", None)):
            norms.update(own())
        elif is_norm(module):
            norms.update(module.parameters(recurse=False))
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in network.parameters():
        if parameter.requires_grad:
            outside = decayed != "all" and (parameter in norms or (decayed == "weights" and parameter.dim() < 2))
            parts[outside].append(parameter)
    return parts

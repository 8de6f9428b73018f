"""Puts other layers in the place of a model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

__all__ = ["replace_layers"]

Layer = TypeVar("Layer", bound=nn.Module)


def replace_layers(model: nn.Module, layers: Mapping[str, Layer], build: Callable[[Layer], nn.Module]) -> nn.Module:
    """Replaces layers in place. A layer that runs in several places stays one layer.

    Args:
        model: Is changed in place.
        layers: Layers of it, by all their names: from ``named_modules(remove_duplicate=False)``.
        build: Makes the replacement of a layer. It gets the layer's mode.

    Returns:
        The model, or the replacement if the model is such a layer itself.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> replace_layers(model, {"1": model[1]}, lambda layer: nn.Tanh())[1]
    Tanh()
    """
    built = {layer: build(layer).train(layer.training) for layer in layers.values()}
    for path, layer in layers.items():
        if not path:
            return built[layer]
        model.set_submodule(path, built[layer])
    return model

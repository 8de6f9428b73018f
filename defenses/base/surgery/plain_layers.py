"""The layers of a model that a compression replaces."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.random_weights import RandomWeights

__all__ = ["inner_convolutions", "plain_layers"]

Layer = TypeVar("Layer", bound=nn.Module)


def plain_layers(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """The layers of a class by all their names: not of its subclasses, whose outputs may be others, nor with random weights.

    Args:
        model: The model.
        kind: The class.

    >>> [*plain_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear)]
    ['0']
    """
    random = [layer.layer for layer in model.modules() if isinstance(layer, RandomWeights)]
    return {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if type(layer) is kind and layer not in random
    }


def inner_convolutions(model: nn.Module, *, defense: str) -> dict[str, nn.Conv2d]:
    """The plain convolutions without groups that are larger than 1 x 1, except the first convolution, by all their names.

    Args:
        model: The model.
        defense: The name of the defense that replaces them, for the message.

    Raises:
        UserError: There are none.
    """
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    layers = {
        name: layer
        for name, layer in plain_layers(model, nn.Conv2d).items()
        if layer is not first and layer.groups == 1 and layer.weight[0, 0].numel() > 1
    }
    if not layers:
        raise UserError(
            f"{defense} replaces convolutions that are larger than 1 x 1, without groups and random weights, and "
            f"{type(model).__name__} has none behind its first convolution"
        )
    return layers

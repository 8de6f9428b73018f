"""Layers whose size depends on their trained weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from robustbench_cli.core.errors import UserError

__all__ = ["ResizedLayer", "resize_layers"]


class ResizedLayer(nn.Module, ABC):
    """A layer whose size depends on its trained weights, such as their rank.

    A checkpoint is loaded into a newly built model, which does not know this size yet.
    """

    @abstractmethod
    def resize(self, state: Mapping[str, Tensor]) -> None:
        """Takes the size from a state dict, before it is loaded.

        Args:
            state: The layer's part of a state dict, by the layer's own names. It may lack names.

        Raises:
            UserError: The layer cannot have this size; the message begins with the name of a tensor.
        """


def resize_layers(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives layers the sizes that they have in a state dict.

    Args:
        model: Is changed in place.
        tensors: The state dict.

    Raises:
        UserError: A layer cannot have its size; the message begins with the name of a tensor.
    """
    for path, layer in model.named_modules():
        if isinstance(layer, ResizedLayer):
            prefix = f"{path}." if path else ""
            state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            try:
                layer.resize(state)
            except UserError as error:
                raise UserError(f"{prefix}{error}") from None

"""What stands around a model, and the model inside, which an adversary sees who knows of no defense."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["Wrapper", "unwrapped_model"]


@runtime_checkable
class Wrapper(Protocol):
    """A transformation, a detector, noise or a rule of decision around a model that works without it too.

    Attributes:
        unwrapped_model: The model inside: images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
    """

    @property
    def unwrapped_model(self) -> nn.Module: ...


def unwrapped_model(model: nn.Module) -> nn.Module:
    """The model inside of all that stands around it; itself where nothing does.

    Args:
        model: A defended one. What its defenses have changed in its layers and weights stays.
    """
    while isinstance(model, Wrapper):
        model = model.unwrapped_model
    return model

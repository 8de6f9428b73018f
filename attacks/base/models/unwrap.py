"""Finds the model inside its wrappers, as an adversary sees it who does not know the defense."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["Wrapper", "unwrapped_model"]


@runtime_checkable
class Wrapper(Protocol):
    """A transformation, a detector, noise or a decision rule around a model that also works without it.

    Attributes:
        unwrapped_model: The model inside: images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
    """

    @property
    def unwrapped_model(self) -> nn.Module: ...


def unwrapped_model(model: nn.Module) -> nn.Module:
    """The model inside all of its wrappers, or the model itself if it has none.

    Args:
        model: A defended model. Changes that defenses made to its own layers and weights remain.
    """
    while isinstance(model, Wrapper):
        model = model.unwrapped_model
    return model

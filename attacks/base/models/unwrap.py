"""What stands around a model, and the model inside, which an adversary sees who knows of no defense."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

__all__ = ["Surrounding", "undefended"]


@runtime_checkable
class Surrounding(Protocol):
    """A transformation, a detector, noise or a rule of decision around a model that works without it too.

    Attributes:
        undefended: The model inside: images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
    """

    @property
    def undefended(self) -> nn.Module: ...


def undefended(model: nn.Module) -> nn.Module:
    """The model inside of all that stands around it; itself where nothing does.

    Args:
        model: A defended one. What its defenses have changed in its layers and weights stays.
    """
    while isinstance(model, Surrounding):
        model = model.undefended
    return model

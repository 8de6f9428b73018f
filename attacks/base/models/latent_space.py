"""Models with a latent space: an encoder from images and a decoder to images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

__all__ = ["LatentSpace", "latent_space_of"]


@runtime_checkable
class LatentSpace(Protocol):
    """A module that encodes images and decodes latents, differentiably and row by row."""

    def latents_of(self, images: Tensor) -> Tensor:
        """The latents ``(N, d)`` of images ``(N, C, H, W)`` in [0, 1]."""
        ...

    def images_of(self, latents: Tensor) -> Tensor:
        """The images ``(N, C, H, W)`` of latents ``(N, d)``."""
        ...


def latent_space_of(model: nn.Module) -> LatentSpace | None:
    """The latent space of a model or of the first module in it that has one, or ``None``.

    Args:
        model: A model, possibly inside wrappers.
    """
    return next((module for module in model.modules() if isinstance(module, LatentSpace)), None)

"""Layers that draw, and a model without their draws."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from robustbench_cli.attacks.base.model import with_layers

__all__ = ["Drawing", "without_draws"]


class Drawing(nn.Module):
    """A layer that draws, unless it is told not to: then it gives what it would if its randomness were taken away.

    Attributes:
        drawing: Whether it draws; its forward pass looks at it.
    """

    drawing = True


def without_draws(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, no :class:`Drawing` layer of a model draws."""
    return with_layers(model, Drawing, drawing=False)

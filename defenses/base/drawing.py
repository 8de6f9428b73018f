"""Layers that draw, and a model without their draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["Drawing", "without_draws"]


class Drawing(nn.Module):
    """A layer that draws, unless it is told not to: then it gives what it would if its randomness were taken away.

    Attributes:
        drawing: Whether it draws; its forward pass looks at it.
    """

    drawing = True


@contextmanager
def without_draws(model: nn.Module) -> Iterator[None]:
    """Within it, no :class:`Drawing` layer of a model draws."""
    layers = [module for module in model.modules() if isinstance(module, Drawing)]
    for layer in layers:
        layer.drawing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.drawing = True

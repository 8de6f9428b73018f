"""Layers that draw, and a model without their draws."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, fx, nn

from robustbench_cli.attacks.base.models.freezing import override_layers

__all__ = ["NoiseLayer", "StochasticLayer", "normal_like", "uniform_like", "without_draws"]


class StochasticLayer(nn.Module):
    """A layer that draws, unless it is told not to: then it gives what it would if its randomness were taken away.

    Attributes:
        drawing: Whether it draws; its forward pass looks at it.
    """

    drawing = True


def without_draws(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, no :class:`StochasticLayer` layer of a model draws."""
    return override_layers(model, StochasticLayer, drawing=False)


class NoiseLayer(StochasticLayer):
    """A layer whose input gets Gaussian noise, in ``eval()`` too.

    Args:
        layer: Takes rows ``(N, ...)``.
        sigma: The noise's standard deviation.
    """

    def __init__(self, layer: nn.Module, sigma: float) -> None:
        super().__init__()
        self.layer = layer
        self.sigma = sigma

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.layer

    def forward(self, rows: Tensor) -> Tensor:
        """The layer's output for ``rows + sigma * N(0, I)``; rows are left as they are."""
        noisy = torch.add(rows, normal_like(rows), alpha=self.sigma) if self.sigma and self.drawing else rows
        output: Tensor = self.layer(noisy)
        return output

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


@fx.wrap
def normal_like(rows: Tensor) -> Tensor:
    """Standard normal numbers of the shape and layout of ``rows``."""
    return _drawn_like(torch.randn, rows)


@fx.wrap
def uniform_like(rows: Tensor) -> Tensor:
    """Numbers uniform in [0, 1) of the shape and layout of ``rows``."""
    return _drawn_like(torch.rand, rows)


def _drawn_like(draw: Callable[..., Tensor], rows: Tensor) -> Tensor:
    """Numbers of the shape of ``rows``, laid out in memory as they are.

    On a CPU torch draws many numbers at once only where the last dimension is the innermost, eight times faster than
    ``randn_like`` draws in the channels-last layout.
    """
    outer_first = sorted(range(rows.dim()), key=rows.stride, reverse=True)
    numbers = draw([rows.shape[place] for place in outer_first], dtype=rows.dtype, device=rows.device)
    return numbers.permute([outer_first.index(place) for place in range(rows.dim())])

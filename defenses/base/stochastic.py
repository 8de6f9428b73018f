"""Layers that draw random numbers, and a switch that turns the draws off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, fx, nn

from robustbench_cli.attacks.base.models.freezing import override_layers

__all__ = ["NoiseLayer", "StochasticLayer", "normal_like", "uniform_like", "without_draws"]


class StochasticLayer(nn.Module):
    """A layer that draws random numbers in its forward pass, or acts as its deterministic counterpart.

    Attributes:
        drawing: Whether it draws. The forward pass must check it.
    """

    drawing = True


def without_draws(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which no :class:`StochasticLayer` of a model draws."""
    return override_layers(model, StochasticLayer, drawing=False)


class NoiseLayer(StochasticLayer):
    """Adds Gaussian noise to the input of a layer, in ``train()`` and in ``eval()`` mode.

    Args:
        layer: The layer. Its input is ``(N, ...)``.
        sigma: The standard deviation of the noise.
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
        """The layer's output for ``rows + sigma * N(0, I)``. ``rows`` stays unchanged."""
        noisy = torch.add(rows, normal_like(rows), alpha=self.sigma) if self.sigma and self.drawing else rows
        output: Tensor = self.layer(noisy)
        return output

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


@fx.wrap
def normal_like(rows: Tensor) -> Tensor:
    """Standard normal numbers in the shape and memory layout of ``rows``."""
    return _drawn_like(torch.randn, rows)


@fx.wrap
def uniform_like(rows: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) in the shape and memory layout of ``rows``."""
    return _drawn_like(torch.rand, rows)


def _drawn_like(draw: Callable[..., Tensor], rows: Tensor) -> Tensor:
    """Random numbers in the shape and memory layout of ``rows``, which are the same in each layout.

    The numbers are drawn in contiguous memory and then copied. On a CPU this is several times as fast as ``randn_like`` in the
    channels-last layout.
    """
    numbers = draw(rows.shape, dtype=rows.dtype, device=rows.device)
    return numbers if numbers.stride() == rows.stride() else torch.empty_like(rows).copy_(numbers)

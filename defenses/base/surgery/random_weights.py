"""Layers with random weights: every row of a batch gets its own draw."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.stochastic import StochasticLayer
from robustbench_cli.defenses.base.surgery.replacing import replace_layers

__all__ = ["RandomWeights", "shared_draws", "weight_std", "with_random_weights"]


class RandomWeights(StochasticLayer):
    """A fully connected layer or a convolution with Gaussian noise on its weights.

    Every row gets its own draw, except within :func:`shared_draws`. A convolution draws weights for each row and runs all
    rows as groups of one convolution, in addition to the pass with the mean weights. This needs memory for one set of
    weights a row. A fully connected layer on vectors draws the noise of its outputs instead: they are normal and
    independent, with the variance ``x^2 @ sigma^2``. This is the local reparameterization trick (Kingma, Salimans,
    Welling: Variational Dropout and the Local Reparameterization Trick. NeurIPS 2015). The distribution of the outputs
    is that of weights drawn for each row, and so are all expectations and their gradients. The gradient of a single draw
    is not.

    Args:
        layer: The layer. It is not copied, and its weights are the mean.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.shared = False

    @property
    def weight(self) -> Tensor:
        """The mean weights, for code that reads a layer's weights without calling the layer."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The mean bias."""
        return self.layer.bias

    @abstractmethod
    def sigma(self) -> Tensor:
        """The standard deviation of the weights' noise, in a shape that broadcasts to the weights."""

    def bias_sigma(self) -> Tensor | None:
        """The standard deviation ``(O,)`` of the bias's noise; ``None`` without noise."""
        return None

    def forward(self, rows: Tensor) -> Tensor:
        """The layer's output for ``rows`` with newly drawn weights."""
        if not self.drawing:
            mean: Tensor = self.layer(rows)
            return mean
        sigma, bias_sigma = self.sigma(), self.bias_sigma()
        if self.shared:
            return self._shared_draw(rows, sigma, bias_sigma)
        output: Tensor = self.layer(rows)
        return output + (
            self._convolution_noise(rows, sigma, bias_sigma)
            if isinstance(self.layer, nn.Conv2d)
            else self._linear_noise(rows, sigma, bias_sigma)
        )

    def _shared_draw(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        """The output with one draw of the weights for all rows."""
        weight, bias = self.layer.weight, self.layer.bias
        weight = weight + sigma * torch.randn_like(weight)
        if bias is not None and bias_sigma is not None:
            bias = bias + bias_sigma * torch.randn_like(bias)
        if isinstance(self.layer, nn.Conv2d):
            return _convolution(self.layer, rows, weight, bias)
        return functional.linear(rows, weight, bias)

    def _linear_noise(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        """The noise of a fully connected layer's outputs, with a draw for each row."""
        sigma = sigma.expand_as(self.layer.weight)
        if rows.dim() == 2:
            variance = functional.linear(rows.square(), sigma.square())
            if bias_sigma is not None:
                variance = variance + bias_sigma.square()
            # The square root has an infinite derivative at 0, where there is no noise.
            positive = variance > 0
            return torch.where(positive, variance, 1).sqrt() * positive * torch.randn_like(variance)
        weight = sigma * torch.randn(len(rows), *sigma.shape, dtype=rows.dtype, device=rows.device)
        noise = (rows.flatten(1, -2) @ weight.mT).view(*rows.shape[:-1], -1)
        if bias_sigma is None:
            return noise
        bias = bias_sigma * torch.randn(len(rows), len(bias_sigma), dtype=rows.dtype, device=rows.device)
        return noise + bias.view(len(rows), *[1] * (rows.dim() - 2), -1)

    def _convolution_noise(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        """The noise of a convolution's outputs, with a draw of the weights for each row."""
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        count = len(rows)
        weight = sigma * torch.randn(count, *layer.weight.shape, dtype=rows.dtype, device=rows.device)
        bias = None
        if bias_sigma is not None:
            bias = bias_sigma * torch.randn(count, len(bias_sigma), dtype=rows.dtype, device=rows.device)
            bias = bias.flatten()
        # All rows become channels of one image. Groups keep them separate.
        stacked = rows.reshape(1, -1, *rows.shape[2:])
        noise = _convolution(layer, stacked, weight.flatten(0, 1), bias, groups=count * layer.groups)
        return noise.view(count, -1, *noise.shape[2:])


def weight_std(weight: Tensor) -> Tensor:
    """The standard deviation of a layer's weights, without a gradient; 0 for a single weight, where torch gives NaN."""
    weight = weight.detach()
    return weight.std() if weight.numel() > 1 else weight.new_zeros(())


def shared_draws(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which all rows of a pass share one draw of the weights.

    A pass then costs as much as one without draws. The papers train this way.
    """
    return override_layers(model, RandomWeights, shared=True)


def _convolution(
    layer: nn.Conv2d, rows: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int | None = None
) -> Tensor:
    """A layer's convolution with other weights."""
    padding: str | tuple[int, ...] = layer.padding
    if layer.padding_mode != "zeros":
        rows = functional.pad(rows, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)  # noqa: SLF001
        padding = (0, 0)
    return functional.conv2d(rows, weight, bias, layer.stride, padding, layer.dilation, groups or layer.groups)


def with_random_weights(
    model: nn.Module, build: Callable[[nn.Linear | nn.Conv2d], RandomWeights], *, name: str
) -> nn.Module:
    """A copy of a model with random weights in every fully connected layer and two-dimensional convolution.

    The matrices inside torch's attention modules keep their weights, because these modules do not call them as layers.

    Args:
        model: It stays unchanged.
        build: Makes the replacement of a layer.
        name: The defense's name, for the message.

    Raises:
        UserError: The model has no such layer.
    """
    changed = copy.deepcopy(model)
    layers = {
        path: layer
        for path, layer in changed.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Linear | nn.Conv2d) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    }
    if not layers:
        raise UserError(
            f"{name} adds noise to weights, and {type(model).__name__} has no fully connected layer or convolution"
        )
    return replace_layers(changed, layers, build)

"""Layers whose weights are drawn: every row of a batch gets its own."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from robustbench_cli.attacks.base.models.freezing import with_layers
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["RandomWeights", "shared_draws", "weight_std", "with_random_weights"]


class RandomWeights(StochasticLayer):
    """A fully connected layer or a convolution whose weights get Gaussian noise.

    Every row draws for itself, unless :func:`shared_draws` rules. A convolution draws weights for each row and runs all
    rows as groups of one convolution, beside the pass through the mean weights; that takes memory for as many weights
    as there are rows. A fully connected layer that is given vectors draws the noise of its outputs instead, which are
    normal and independent with the variance ``x^2 @ sigma^2`` (Kingma, Salimans, Welling, Variational Dropout and the
    Local Reparameterization Trick, NeurIPS 2015): each row's outputs, and so any expectation and its gradient, are
    those of weights drawn for it, though a single draw's gradient is not.

    Args:
        layer: The layer; it is held, and its weights are the mean.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.shared = False

    @property
    def weight(self) -> Tensor:
        """The mean weights, for code that reads a layer's weights and does not call it."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The mean bias."""
        return self.layer.bias

    @abstractmethod
    def sigma(self) -> Tensor:
        """The standard deviation of the weights' noise, in a shape that broadcasts against theirs."""

    def bias_sigma(self) -> Tensor | None:
        """The standard deviation ``(O,)`` of the bias's noise; ``None`` where it has none."""
        return None

    def forward(self, rows: Tensor) -> Tensor:
        """The layer's output for ``rows`` with weights drawn anew."""
        if not self.drawing:
            mean: Tensor = self.layer(rows)
            return mean
        sigma, bias_sigma = self.sigma(), self.bias_sigma()
        if self.shared:
            return self._one_for_all(rows, sigma, bias_sigma)
        output: Tensor = self.layer(rows)
        return output + (
            self._convolution_noise(rows, sigma, bias_sigma)
            if isinstance(self.layer, nn.Conv2d)
            else self._linear_noise(rows, sigma, bias_sigma)
        )

    def _one_for_all(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        weight = weight + sigma * torch.randn_like(weight)
        if bias is not None and bias_sigma is not None:
            bias = bias + bias_sigma * torch.randn_like(bias)
        if isinstance(self.layer, nn.Conv2d):
            return _convolution(self.layer, rows, weight, bias)
        return functional.linear(rows, weight, bias)

    def _linear_noise(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        sigma = sigma.expand_as(self.layer.weight)
        if rows.dim() == 2:
            variance = functional.linear(rows.square(), sigma.square())
            if bias_sigma is not None:
                variance = variance + bias_sigma.square()
            # A root has no slope at 0, where there is no noise either.
            some = variance > 0
            return torch.where(some, variance, 1).sqrt() * some * torch.randn_like(variance)
        weight = sigma * torch.randn(len(rows), *sigma.shape, dtype=rows.dtype, device=rows.device)
        noise = (rows.flatten(1, -2) @ weight.mT).view(*rows.shape[:-1], -1)
        if bias_sigma is None:
            return noise
        own = bias_sigma * torch.randn(len(rows), len(bias_sigma), dtype=rows.dtype, device=rows.device)
        return noise + own.view(len(rows), *[1] * (rows.dim() - 2), -1)

    def _convolution_noise(self, rows: Tensor, sigma: Tensor, bias_sigma: Tensor | None) -> Tensor:
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        count = len(rows)
        weight = sigma * torch.randn(count, *layer.weight.shape, dtype=rows.dtype, device=rows.device)
        bias = None
        if bias_sigma is not None:
            bias = bias_sigma * torch.randn(count, len(bias_sigma), dtype=rows.dtype, device=rows.device)
            bias = bias.flatten()
        # The rows stand beside each other as channels of one image, in groups that do not mix.
        beside = rows.reshape(1, -1, *rows.shape[2:])
        noise = _convolution(layer, beside, weight.flatten(0, 1), bias, groups=count * layer.groups)
        return noise.view(count, -1, *noise.shape[2:])


def weight_std(weight: Tensor) -> Tensor:
    """The standard deviation of a layer's weights, as a constant; 0 for a single weight, where the usual one is NaN."""
    weight = weight.detach()
    return weight.std() if weight.numel() > 1 else weight.new_zeros(())


def shared_draws(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, all rows of a pass share one draw of the weights, which costs no more than weights that are not drawn.

    The papers train so.
    """
    return with_layers(model, RandomWeights, shared=True)


def _convolution(
    layer: nn.Conv2d, rows: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int | None = None
) -> Tensor:
    """The convolution of a layer with other weights."""
    padding: str | tuple[int, ...] = layer.padding
    if layer.padding_mode != "zeros":
        rows = functional.pad(rows, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)  # noqa: SLF001
        padding = (0, 0)
    return functional.conv2d(rows, weight, bias, layer.stride, padding, layer.dilation, groups or layer.groups)


def with_random_weights(
    model: nn.Module, build: Callable[[nn.Linear | nn.Conv2d], RandomWeights], *, name: str
) -> nn.Module:
    """A copy of a model with every fully connected layer and two-dimensional convolution replaced.

    The matrices inside an attention module, which it does not call as layers, stay as they are.

    Args:
        model: Left as it is.
        build: Makes of a layer the one that stands in its place.
        name: The defense's, for the message.

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
    built = {layer: build(layer).train(layer.training) for layer in layers.values()}
    for path, layer in layers.items():
        if not path:
            return built[layer]
        changed.set_submodule(path, built[layer])
    return changed

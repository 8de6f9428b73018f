"""A convolution as a generalized depthwise-separable one: depthwise kernels, mixed by a 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.resized import ResizedLayer

__all__ = ["DepthwiseSeparable"]


class DepthwiseSeparable(ResizedLayer):
    """A convolution whose kernels of one input channel are weighted sums of a few.

    The weights of an input channel c are a matrix ``W_c`` of shape ``(M, K^2)``. Its singular value decomposition gives
    pairs of a kernel ``(K, K)`` and M weights. The channel is repeated once for each of its pairs and filtered by their
    kernels (a depthwise convolution), and the weights mix the results (a 1 x 1 convolution). With all pairs the outputs are
    those of the given convolution.

    Args:
        layer: A convolution with one group.
    """

    channels: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self._layer: dict[str, Any] = {
            "kernel_size": layer.kernel_size,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "padding_mode": layer.padding_mode,
        }
        self.inputs, self.outputs, self.has_bias = layer.in_channels, layer.out_channels, layer.bias is not None
        matrices = layer.weight.detach().transpose(0, 1).flatten(2)
        left, sizes, right = torch.linalg.svd(matrices, full_matrices=False)
        self.most_pairs = sizes.numel()
        self._build(self.most_pairs, like=layer.weight)
        state = {
            "channels": torch.arange(self.inputs).repeat_interleave(sizes.shape[1]),
            "depthwise.weight": right.reshape(self.depthwise.weight.shape),
            "pointwise.weight": (left * sizes[:, None]).transpose(1, 2).flatten(0, 1).T[:, :, None, None],
        }
        self.load_state_dict(state if layer.bias is None else state | {"pointwise.bias": layer.bias})

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs ``(N, M, H', W')`` of maps ``(N, C, H, W)``."""
        outputs: Tensor = self.pointwise(self.depthwise(maps[:, self.channels]))
        return outputs

    def errors(self) -> Tensor:
        """The squared error of the weights without each of the G pairs ``(G,)``: its singular value squared."""
        kernels, weights = self.depthwise.weight.detach(), self.pointwise.weight.detach()
        return kernels.flatten(1).square().sum(1) * weights.flatten(1).square().sum(0)

    @torch.no_grad()
    def convolution(self) -> nn.Conv2d:
        """The convolution that gives the same outputs."""
        factory: dict[str, Any] = {"device": self.channels.device, "dtype": self.pointwise.weight.dtype}
        layer = nn.Conv2d(self.inputs, self.outputs, bias=self.has_bias, **self._layer, **factory)
        products = self.pointwise.weight * self.depthwise.weight.transpose(0, 1)
        layer.weight.zero_().index_add_(1, self.channels, products)
        if layer.bias is not None and self.pointwise.bias is not None:
            layer.bias.copy_(self.pointwise.bias)
        return layer

    def keep(self, pairs: Tensor) -> None:
        """Removes all other pairs.

        Args:
            pairs: Indices ``(G',)`` of the pairs that stay, at least one.
        """
        state = self.state_dict()
        self._build(len(pairs), like=self.pointwise.weight)
        state["channels"] = state["channels"][pairs]
        state["depthwise.weight"] = state["depthwise.weight"][pairs]
        state["pointwise.weight"] = state["pointwise.weight"][:, pairs]
        self.load_state_dict(state)

    def _build(self, pairs: int, *, like: Tensor) -> None:
        """Makes the layers for a number of pairs, with any weights."""
        factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.register_buffer("channels", torch.zeros(pairs, dtype=torch.int64, device=like.device))
        self.depthwise = nn.Conv2d(pairs, pairs, groups=pairs, bias=False, **self._layer, **factory)
        self.pointwise = nn.Conv2d(pairs, self.outputs, 1, bias=self.has_bias, **factory)

    def resize(self, state: Mapping[str, Tensor]) -> None:
        """Takes the number of pairs from a state dict, before it is loaded.

        Raises:
            UserError: The state dict has no pair, more than the convolution has, or a channel that the input has not.
        """
        channels = state.get("channels")
        if channels is None:
            return
        fits = channels.dtype == torch.int64 and channels.dim() == 1 and 0 < len(channels) <= self.most_pairs
        if not fits or bool((channels < 0).any() | (channels >= self.inputs).any()):
            raise UserError(f"channels has to be 1 to {self.most_pairs} integers from 0 to {self.inputs - 1}")
        self._build(len(channels), like=self.pointwise.weight)

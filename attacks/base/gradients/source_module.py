"""A gradient source as a module of PyTorch, for attacks of other libraries, which call ``backward()`` themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustbench_cli.attacks.base.gradients.source import GradientSource

__all__ = ["SourceModule"]


class SourceModule(nn.Module):
    """Images to logits, as an ordinary module that autograd can differentiate once.

    Each pass goes through the source, so it is counted, cut into batches that fit the memory, and bound to the draws of the
    source. The logits are the mean over its D draws. The attacked model is no submodule: its parameters, its mode and its
    attributes cannot be changed from here.

    Args:
        source: The gradient source.
        images: ``(N, C, H, W)``, the clean images; only their device and type are used.
        labels: ``(N,)``, the classes to leave, or to reach in a targeted attack. They serve to count zero gradients.
    """

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        # Libraries read the device from the first parameter.
        self.device_marker = nn.Parameter(images.new_empty(0), requires_grad=False)
        self._passes = _Passes(source, labels)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits ``(N, K)`` of images ``(N, C, H, W)`` of any floating-point type."""
        images = images.to(self.device_marker)
        if torch.is_grad_enabled() and images.requires_grad:
            logits: Tensor = _Differentiable.apply(images, self._passes)
            return logits
        return self._passes.logits(images)


class _Passes:
    """The forward and backward passes of a source for any batch.

    Args:
        source: The gradient source.
        labels: See :class:`SourceModule`.
    """

    def __init__(self, source: GradientSource, labels: Tensor) -> None:
        self.source = source
        self._labels = labels

    def logits(self, images: Tensor) -> Tensor:
        """The mean logits ``(N, K)``, without a graph."""
        return self.source.logits(images.detach()).mean(0)

    def gradient(self, images: Tensor, slopes: Tensor, query: int) -> Tensor:
        """The gradient ``(N, C, H, W)`` of ``(logits * slopes).sum()``, with the draws of the query of this number."""
        queries, self.source.queries = self.source.queries, query - 1
        try:
            numbers = torch.cat([self._labels_of(slopes)[:, None].to(slopes), slopes], dim=1)
            return self.source.gradient(images, numbers, _weighted_sum)[1]
        finally:
            self.source.queries = queries

    def gradient_through(self, graph: tuple[Tensor, Tensor], slopes: Tensor) -> Tensor:
        """The same gradient, through the graph of an earlier forward pass."""
        return self.source.backward_through(graph, slopes, self._labels_of(slopes))

    def _labels_of(self, slopes: Tensor) -> Tensor:
        """The labels ``(N,)`` of a batch; -1 where it is another selection of images."""
        return self._labels if len(self._labels) == len(slopes) else self._labels.new_full((len(slopes),), -1)


def _weighted_sum(logits: Tensor, numbers: Tensor) -> Tensor:
    """The sum of the logits ``(M, K)``, weighted by all columns of ``numbers`` ``(M, 1 + K)`` but the first."""
    return (logits * numbers[:, 1:]).sum(1)


class _Differentiable(torch.autograd.Function):
    """The logits of a source, whose backward pass goes through the source too."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, passes: _Passes) -> Tensor:
        ctx.passes, ctx.images = passes, images.detach().clone()
        ctx.graph = passes.source.with_graph(ctx.images)
        logits = passes.logits(images) if ctx.graph is None else ctx.graph[1][0].detach().clone()
        ctx.query = passes.source.queries
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        if ctx.graph is not None:
            return ctx.passes.gradient_through(ctx.graph, slopes), None
        # Another forward pass: the graphs of several draws or batches would fill the memory.
        return ctx.passes.gradient(ctx.images, slopes, ctx.query), None

"""BPDA (backward pass differentiable approximation): replaces the derivative of a layer by that of a surrogate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["BPDALayer", "SelectionLayer", "SurrogateFunction", "bpda", "identity", "use_surrogates"]

SurrogateFunction = Callable[[Tensor], Tensor]
"""A differentiable function from a layer's input to a tensor of the shape of its output."""


def identity(values: Tensor) -> Tensor:
    """The surrogate of a layer whose output is close to its input, such as a quantizer."""
    return values


class BPDALayer(nn.Module, ABC):
    """A layer whose gradient is that of its surrogate, so that every gradient-based attack adapts to it.

    Attributes:
        approximating: Whether the layer also computes the surrogate in the forward pass.
    """

    approximating = False

    @abstractmethod
    def exact(self, values: Tensor) -> Tensor:
        """The layer's function. It runs without a graph and need not be differentiable."""

    def surrogate(self, values: Tensor) -> Tensor:
        """The differentiable approximation of :meth:`exact`; by default the identity."""
        return identity(values)

    def forward(self, values: Tensor) -> Tensor:
        """The result of :meth:`exact` with the derivative of :meth:`surrogate`."""
        if self.approximating:
            return self.surrogate(values)
        with torch.no_grad():
            result = self.exact(values.detach())
        return _with_derivative_of(self.surrogate, values, result)


class SelectionLayer(nn.Module):
    """A layer that selects some of its inputs, as a median does. The other inputs rightly have a zero gradient."""


def use_surrogates(model: nn.Module) -> AbstractContextManager[None]:
    """Makes every :class:`BPDALayer` of a model compute its surrogate inside the context."""
    return override_layers(model, BPDALayer, approximating=True)


@contextmanager
def bpda(model: nn.Module, surrogates: Mapping[str, SurrogateFunction]) -> Iterator[nn.Module]:
    """Replaces the derivatives of some layers of a model; their outputs stay the same to the bit.

    A layer's own gradient may be zero, wrong or missing, since it is never computed.

    Source: Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, arXiv 1802.00420,
    section 4.1.

    Args:
        model: Restored at the end of the context.
        surrogates: By the layer's name in ``model.named_modules()``; ``""`` is the model itself. The layer must map one
            tensor to one tensor.

    Yields:
        The model.

    Raises:
        UserError: The model has no layer of that name, or the shapes of a surrogate and of its layer differ.
    """
    modules = dict(model.named_modules())
    with ExitStack() as replaced:
        for name, surrogate in surrogates.items():
            if name not in modules:
                raise UserError(f"the model has no layer '{name}': {did_you_mean(name, modules)}")
            replaced.enter_context(_derivative_replaced(modules[name], surrogate, name))
        yield model


@contextmanager
def _derivative_replaced(layer: nn.Module, surrogate: SurrogateFunction, name: str) -> Iterator[None]:
    exact = layer.forward

    def forward(values: Tensor) -> Any:
        with torch.no_grad():
            # A layer may work in place, so it gets a copy.
            result = exact(values.detach().clone())
        return _with_derivative_of(surrogate, values, result, where=f"layer '{name}'")

    instance_forward = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if instance_forward is not None:
            layer.forward = instance_forward


def _with_derivative_of(
    surrogate: SurrogateFunction, values: Tensor, result: Tensor, *, where: str = "a layer"
) -> Tensor:
    """A layer's result with the derivative of a surrogate."""
    if not torch.is_grad_enabled():
        return result
    approximation = surrogate(values)
    if approximation.shape != result.shape:
        raise UserError(
            f"the surrogate of {where} gives the shape {tuple(approximation.shape)}, the layer {tuple(result.shape)}: "
            "they must agree"
        )
    # The added term is exactly 0. Adding ``result - approximation`` to the approximation would round.
    return result + (approximation - approximation.detach())

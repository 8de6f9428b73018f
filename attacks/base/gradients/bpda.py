"""Backward pass differentiable approximation: the derivative of one layer is replaced by another's."""

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
"""From what a layer is given to something of the shape that it returns, differentiably."""


def identity(given: Tensor) -> Tensor:
    """The surrogate of a layer that returns nearly what it is given, as a quantiser does."""
    return given


class BPDALayer(nn.Module, ABC):
    """A layer that passes gradients back as its surrogate does, so that every attack by gradients adapts to it.

    Attributes:
        approximating: Whether it gives the surrogate's results as well as its gradients.
    """

    approximating = False

    @abstractmethod
    def exact(self, given: Tensor) -> Tensor:
        """What the layer computes of what it is given; asked without a graph, and need not be differentiable."""

    def surrogate(self, given: Tensor) -> Tensor:
        """The differentiable approximation; what it is given, unless a subclass knows better."""
        return identity(given)

    def forward(self, given: Tensor) -> Tensor:
        """The result of :meth:`exact`, with the derivative of :meth:`surrogate`."""
        if self.approximating:
            return self.surrogate(given)
        with torch.no_grad():
            computed = self.exact(given.detach())
        return _with_backward_of(self.surrogate, given, computed)


class SelectionLayer(nn.Module):
    """A layer that takes some of the numbers that it is given, as a median does, and rightly has no gradient at the others."""


def use_surrogates(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, every :class:`BPDALayer` layer of a model gives what its surrogate does."""
    return override_layers(model, BPDALayer, approximating=True)


@contextmanager
def bpda(model: nn.Module, surrogates: Mapping[str, SurrogateFunction]) -> Iterator[nn.Module]:
    """Within it, layers of a model pass gradients back as their surrogates do, and compute what they did to the bit.

    A layer's own gradient may be zero, wrong or missing: none is asked for. (Athalye, Carlini, Wagner: Obfuscated
    Gradients Give a False Sense of Security. ICML 2018, arXiv 1802.00420, section 4.1.)

    Args:
        model: Left as it was afterwards.
        surrogates: By the layer's name as in ``model.named_modules()``, ``""`` being the model itself. A layer is given
            one tensor and returns one.

    Raises:
        UserError: The model has no such layer, or a surrogate's result has not the shape of its layer's.
    """
    modules = dict(model.named_modules())
    with ExitStack() as replaced:
        for name, surrogate in surrogates.items():
            if name not in modules:
                raise UserError(f"the model has no layer '{name}': {did_you_mean(name, modules)}")
            replaced.enter_context(_backward_of(modules[name], surrogate, name))
        yield model


@contextmanager
def _backward_of(layer: nn.Module, surrogate: SurrogateFunction, name: str) -> Iterator[None]:
    own = layer.forward

    def forward(given: Tensor) -> Any:
        with torch.no_grad():
            # A copy, since a layer may work in place.
            computed = own(given.detach().clone())
        return _with_backward_of(surrogate, given, computed, where=f"layer '{name}'")

    set_before = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if set_before is not None:
            layer.forward = set_before


def _with_backward_of(
    surrogate: SurrogateFunction, given: Tensor, computed: Tensor, *, where: str = "a layer"
) -> Tensor:
    """What a layer has computed, with the derivative of a surrogate."""
    if not torch.is_grad_enabled():
        return computed
    approximation = surrogate(given)
    if approximation.shape != computed.shape:
        raise UserError(
            f"the surrogate of {where} gives the shape {tuple(approximation.shape)}, the layer {tuple(computed.shape)}: "
            "they must agree"
        )
    # Not the difference of the two results, which would be rounded: a zero with the surrogate's derivative.
    return computed + (approximation - approximation.detach())

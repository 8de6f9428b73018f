"""A straight-through surrogate of any model: operations whose gradient is zero or cut pass it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["StraightThrough"]

_STEPS = frozenset(
    getattr(place, name)
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
    for place in (torch, Tensor)
)
_CUTS = frozenset({Tensor.detach, torch.detach, Tensor.detach_, torch.detach_, Tensor.data.__get__})  # type: ignore[attr-defined]
_COMPARISONS = frozenset(
    getattr(place, name) for name in ("gt", "ge", "lt", "le") for place in (torch, Tensor)
) | frozenset({Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__})
_LESS = frozenset({torch.lt, torch.le, Tensor.lt, Tensor.le, Tensor.__lt__, Tensor.__le__})
_CASTS = frozenset({Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.type_as})
_CHOICES = frozenset({torch.argmax, Tensor.argmax})
_ONE_HOT = torch.nn.functional.one_hot
_LEAVES_TORCH = frozenset({Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__})

# What no_grad calls; torch has no public name for it.
_SET_GRAD_ENABLED = torch._C._set_grad_enabled  # noqa: SLF001

_NO_SETUP = torch.autograd.Function.setup_context

_WIDTH = 0.1
"""The width of the sigmoid whose derivative a comparison gets, in the units of the compared values.

Within 0.17 of the threshold, the derivative is at least half of its maximum. Usual radii are smaller: 8/255 is 0.03.
"""

_SOFT = "_advdef_differentiable"
"""The attribute of a tensor of bools or integers that holds a differentiable approximation of it."""


class StraightThrough(nn.Module):
    """A model with the same logits, whose gradient ignores what cuts it.

    - Rounding and signs have the derivative of the identity.
    - A comparison that is cast to floats has that of a sigmoid, and a one-hot class that of the softmax.
    - ``detach``, ``no_grad`` and the ``backward`` of a custom function do nothing.

    Source: Bengio, Léonard, Courville: Estimating or Propagating Gradients Through Stochastic Neurons. arXiv 1308.3432;
    Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 4.1 (BPDA).

    Args:
        model: The model.

    Attributes:
        replaced: How many operations on the way from the input were replaced so far.

    >>> class Rounded(nn.Module):
    ...     def forward(self, values):
    ...         return values.round()
    >>> values = torch.tensor([0.3, 0.8], requires_grad=True)
    >>> model = StraightThrough(Rounded())
    >>> model(values).sum().backward()
    >>> values.grad, model.replaced
    (tensor([1., 1.]), 1)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.replaced = 0

    def forward(self, images: Tensor) -> Any:
        mode = _StraightThroughMode()
        with mode, _custom_functions_differentiated(mode):
            logits = self.model(images)
        self.replaced += mode.replaced
        return logits


class _StraightThroughMode(TorchFunctionMode):
    """Replaces operations on tensors that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _SET_GRAD_ENABLED:
            return self._set_grad_enabled(*args)
        first = _argument(args, kwargs, 0, "input")
        if not isinstance(first, Tensor):
            return func(*args, **kwargs)
        if func in _LEAVES_TORCH:
            return func(first.detach(), *args[1:], **kwargs)
        other = _argument(args, kwargs, 1, "other") if func in _COMPARISONS else None
        if first.requires_grad or (isinstance(other, Tensor) and other.requires_grad):
            return self._differentiable(func, first, args, kwargs)
        soft = getattr(first, _SOFT, None)
        result = func(*args, **kwargs)
        if soft is None:
            return result
        if func in _CASTS and result.is_floating_point():
            return self._with_derivative_of(soft, result)
        if func is _ONE_HOT:
            setattr(result, _SOFT, soft)
        return result

    def _differentiable(self, func: Callable[..., Any], first: Tensor, args: Sequence[Any], kwargs: Any) -> Any:
        """The result of an operation on a tensor that depends on the input."""
        if func in _CUTS:
            self.replaced += 1
            return first.view_as(first)
        result = func(*args, **kwargs)
        if func in _STEPS:
            return self._with_derivative_of(first, result)
        if func in _COMPARISONS:
            other = _argument(args, kwargs, 1, "other")
            setattr(result, _SOFT, torch.sigmoid((other - first if func in _LESS else first - other) / _WIDTH))
        elif func in _CHOICES and (dim := _argument(args, kwargs, 1, "dim")) is not None:
            setattr(result, _SOFT, first.softmax(dim))
        return result

    def _with_derivative_of(self, smooth: Tensor, result: Tensor) -> Tensor:
        self.replaced += 1
        return result.detach() + (smooth - smooth.detach()).to(result.dtype)

    def _set_grad_enabled(self, enabled: bool) -> None:
        """Lets a model turn gradients on, not off."""
        if enabled:
            torch.set_grad_enabled(True)
        elif torch.is_grad_enabled():
            self.replaced += 1


@contextmanager
def _custom_functions_differentiated(mode: _StraightThroughMode) -> Iterator[None]:
    """Differentiates what the forward passes of custom functions compute, in place of their backward passes."""
    usual = vars(torch.autograd.Function)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return usual.__get__(None, cls)(*args, **kwargs)
        mode.replaced += 1
        if cls.setup_context is not _NO_SETUP:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(), *args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = usual


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument that a call gives by its position or by its name; ``None`` without it."""
    return args[position] if len(args) > position else kwargs.get(name)


class _Context:
    """Takes what a custom function stores for its backward pass."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _do_nothing


def _do_nothing(*values: object, **keywords: object) -> None:
    """Takes anything."""

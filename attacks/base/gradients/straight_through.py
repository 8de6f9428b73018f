"""A straight-through surrogate of any model: operations whose gradient is zero or cut pass it on."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from robustbench_cli.attacks.base.models.user_code import code_of, replaced_names

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
_CASTS = frozenset(
    getattr(Tensor, name)
    for name in (
        *("float", "double", "half", "bfloat16", "to", "type", "type_as"),
        *("byte", "char", "short", "int", "long"),
    )
)
_CHOICES = frozenset({torch.argmax, Tensor.argmax})
_ONE_HOT = torch.nn.functional.one_hot
_LEAVES_TORCH = frozenset({Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__})
_ENTERS_TORCH = frozenset({torch.tensor, torch.as_tensor})


def _chosen(share: Any, first: Any, second: Any) -> Tensor:
    """What ``torch.where`` becomes for a share in [0, 1]."""
    mixed: Tensor = share * first + (1 - share) * second
    return mixed


def _filled(values: Any, share: Any, value: Any) -> Tensor:
    return _chosen(share, value, values)


_ON_SHARES: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys((torch.logical_and, Tensor.logical_and, Tensor.__and__), torch.mul),
    **dict.fromkeys((torch.logical_or, Tensor.logical_or, Tensor.__or__), torch.maximum),
    **dict.fromkeys((torch.logical_not, Tensor.logical_not, Tensor.__invert__), lambda share: 1 - share),
    torch.where: _chosen,
    Tensor.where: lambda first, share, second: _chosen(share, first, second),
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill), _filled),
    _ONE_HOT: lambda share, *_, **__: share,
    **dict.fromkeys(_CASTS, lambda share, *_, **__: share),
}
"""What an operation on masks and integers becomes on their differentiable approximations; other operations stay as they are."""

# What no_grad calls; torch has no public name for it.
_SET_GRAD_ENABLED = torch._C._set_grad_enabled  # noqa: SLF001

# In the methods of a mode it is off already.
_NO_MODE = torch._C.DisableTorchFunction  # noqa: SLF001

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
    - A comparison has that of a sigmoid, also where its mask multiplies or chooses values, and a one-hot class that of the softmax.
    - ``detach``, ``no_grad``, hooks of tensors and the ``backward`` of a custom function do nothing.
    - An array that leaves torch and comes back in the same shape has the derivative of the identity.

    The gradient of integers in an index, of single numbers that leave torch (``item``), of arrays that come back in another shape, and
    of a custom function whose ``apply`` is stored in a container or a closure stays cut.

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
        self._places = [*code_of(model), *model.modules()]

    def forward(self, images: Tensor) -> Any:
        mode = _StraightThroughMode()
        with mode, _custom_functions_differentiated(mode, self._places), _arrays_followed(mode):
            logits = self.model(images)
        self.replaced += mode.replaced
        return logits


class _StraightThroughMode(TorchFunctionMode):
    """Replaces operations on tensors that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0
        self._left: dict[tuple[int, ...], deque[Tensor]] = {}
        self._latest: dict[tuple[int, ...], Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _SET_GRAD_ENABLED:
            return self._set_grad_enabled(*args)
        if func in _ENTERS_TORCH:
            return self.entered(args[0], func(*args, **kwargs))
        first = _argument(args, kwargs, 0, "input")
        if func in _LEAVES_TORCH:
            return self._leave(func, first, args, kwargs)
        soft_args, soft_kwargs = tree_map(_soft, args), tree_map(_soft, kwargs)
        leaves = zip(tree_leaves((args, kwargs)), tree_leaves((soft_args, soft_kwargs)), strict=True)
        is_soft = any(given is not soft for given, soft in leaves)
        soft_first = _argument(soft_args, soft_kwargs, 0, "input")
        other = _argument(soft_args, soft_kwargs, 1, "other") if func in _COMPARISONS else None
        if any(isinstance(value, Tensor) and value.requires_grad for value in (soft_first, other)):
            replaced = self._replaced(func, soft_first, other, args, kwargs)
            if replaced is not None:
                return replaced
        result = func(*args, **kwargs)
        return self._softened(func, result, soft_args, soft_kwargs) if is_soft else result

    def _leave(self, func: Callable[..., Any], first: Tensor, args: Sequence[Any], kwargs: Any) -> Any:
        """The array of a tensor, which is remembered by its shape if it depends on the input."""
        soft = _soft(first)
        if soft.requires_grad and first.dim():
            self._left.setdefault(tuple(first.shape), deque()).append(soft)
        return func(first.detach(), *args[1:], **kwargs)

    def entered(self, array: Any, tensor: Tensor) -> Tensor:
        """The tensor of an array, with the derivative of the next tensor that left in its shape, or of the last one."""
        shape = tuple(tensor.shape)
        if not isinstance(array, np.ndarray) or shape not in self._left:
            return tensor
        if left := self._left[shape]:
            self._latest[shape] = left.popleft()
        return self._attached(self._latest[shape], tensor)

    def _replaced(self, func: Callable[..., Any], first: Any, other: Any, args: Sequence[Any], kwargs: Any) -> Any:
        """The result of an operation that cuts the gradient; ``None`` for one that does not."""
        if func in _CUTS:
            self.replaced += 1
            return first.view_as(first)
        if func is Tensor.register_hook:
            self.replaced += 1
            return RemovableHandle(OrderedDict())
        if func in _STEPS:
            return self._attached(first, func(*args, **kwargs))
        if func in _CASTS or func in _COMPARISONS or func in _CHOICES:
            result = func(*args, **kwargs)
            if func in _COMPARISONS:
                return self._attached(
                    torch.sigmoid((other - first if func in _LESS else first - other) / _WIDTH), result
                )
            if func in _CASTS:
                return None if result.is_floating_point() else self._attached(first, result)
            dim = _argument(args, kwargs, 1, "dim")
            return result if dim is None else self._attached(first.softmax(dim), result)
        return None

    def _softened(self, func: Callable[..., Any], result: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation on masks or integers, with the derivative of the same on their approximations."""
        try:
            smooth = _ON_SHARES.get(func, func)(*args, **kwargs)
        # A float is no index, and some operations take no floats.
        except (RuntimeError, TypeError, IndexError, ValueError):
            return result
        is_same = isinstance(smooth, Tensor) and isinstance(result, Tensor) and smooth.shape == result.shape
        return self._attached(smooth, result) if is_same else result

    def _attached(self, smooth: Tensor, result: Tensor) -> Tensor:
        """A result with the derivative of a differentiable approximation; bools and integers hold it until they are cast."""
        if not result.is_floating_point():
            setattr(result, _SOFT, smooth)
            return result
        self.replaced += 1
        finite = smooth.nan_to_num(0, 0, 0)
        return result.detach() + (finite - finite.detach()).to(result)

    def _set_grad_enabled(self, enabled: bool) -> None:
        """Lets a model turn gradients on, not off."""
        if enabled:
            torch.set_grad_enabled(True)
        elif torch.is_grad_enabled():
            self.replaced += 1


@contextmanager
def _custom_functions_differentiated(mode: _StraightThroughMode, places: Sequence[object]) -> Iterator[None]:
    """Differentiates what the forward passes of custom functions compute, in place of their backward passes.

    Args:
        mode: Counts them.
        places: Where the ``apply`` of a function may have been stored under another name.
    """
    usual = vars(torch.autograd.Function)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return usual.__get__(None, cls)(*args, **kwargs)
        mode.replaced += 1
        if cls.setup_context is not _NO_SETUP:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(), *args, **kwargs)

    def stored(value: Any) -> Any:
        cls = getattr(value, "__self__", None)
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function) and value == cls.apply:
            return partial(apply, cls)
        return value

    with replaced_names(places, stored):
        torch.autograd.Function.apply = classmethod(apply)
        try:
            yield
        finally:
            torch.autograd.Function.apply = usual


@contextmanager
def _arrays_followed(mode: _StraightThroughMode) -> Iterator[None]:
    """Tells a mode of arrays that ``torch.from_numpy`` takes, which torch does not."""
    usual = torch.from_numpy

    def from_numpy(ndarray: Any) -> Tensor:
        with _NO_MODE():
            return mode.entered(ndarray, usual(ndarray))

    torch.from_numpy = from_numpy
    try:
        yield
    finally:
        torch.from_numpy = usual


def _soft(value: Any) -> Any:
    """The differentiable approximation of a tensor of bools or integers; any other value itself."""
    return getattr(value, _SOFT, value) if isinstance(value, Tensor) else value


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument that a call gives by its position or by its name; ``None`` without it."""
    return args[position] if len(args) > position else kwargs.get(name)


class _Context:
    """Takes what a custom function stores for its backward pass."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _do_nothing


def _do_nothing(*values: object, **keywords: object) -> None:
    """Takes anything."""

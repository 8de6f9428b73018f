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
    getattr(namespace, name)
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
    for namespace in (torch, Tensor)
)
_FLOOR_DIVISIONS = frozenset({torch.floor_divide, Tensor.floor_divide, Tensor.__floordiv__})
_CUTS = frozenset(
    {Tensor.detach, torch.detach, Tensor.detach_, torch.detach_, Tensor.data.__get__, Tensor.register_hook}  # type: ignore[attr-defined]
)
_COMPARISONS = frozenset(
    getattr(namespace, name) for name in ("gt", "ge", "lt", "le") for namespace in (torch, Tensor)
) | frozenset({Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__})
_LESS = frozenset({torch.lt, torch.le, Tensor.lt, Tensor.le, Tensor.__lt__, Tensor.__le__})
_CASTS = frozenset(
    getattr(Tensor, name)
    for name in (
        *("float", "double", "half", "bfloat16", "to", "type", "type_as"),
        *("byte", "char", "short", "int", "long"),
    )
)
_AND: frozenset[Callable[..., Any]] = frozenset({torch.bitwise_and, Tensor.bitwise_and, Tensor.__and__})
_CHOICES = frozenset({torch.argmax, Tensor.argmax})
_ONE_HOT = torch.nn.functional.one_hot
_LEAVES_TORCH = frozenset({Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__})
_ENTERS_TORCH = frozenset({torch.tensor, torch.as_tensor})


def _chosen(share: Any, first: Any, second: Any) -> Any:
    """What ``torch.where`` becomes for a share in [0, 1]."""
    return share * first + (1 - share) * second


_ON_APPROXIMATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys((torch.logical_and, Tensor.logical_and, *_AND), torch.mul),
    **dict.fromkeys((torch.logical_or, Tensor.logical_or, Tensor.__or__), torch.maximum),
    **dict.fromkeys((torch.logical_not, Tensor.logical_not, Tensor.__invert__), lambda share: 1 - share),
    Tensor.__rshift__: lambda value, bits: value / 2**bits,
    Tensor.__lshift__: lambda value, bits: value * 2**bits,
    torch.where: _chosen,
    Tensor.where: lambda first, condition, other: _chosen(condition, first, other),
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill), lambda values, mask, value: _chosen(mask, value, values)),
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

    The gradient stays cut at integers in an index, at rounding and masks in place (``round_``), at remainders, at single numbers
    that leave torch (``item``), at arrays that come back in another shape, and at a custom function whose ``apply`` is stored
    in a container or a closure.

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
        self._namespaces = [*code_of(model), *model.modules()]

    def forward(self, images: Tensor) -> Any:
        mode = _StraightThroughMode()
        with mode, _replaced_functions(mode, self._namespaces):
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
            return self.entered(_argument(args, kwargs, 0, "data"), func(*args, **kwargs))
        first = _argument(args, kwargs, 0, "input")
        if func in _LEAVES_TORCH:
            return self._leave(func, first, args, kwargs)
        if func in _CUTS and _soft(first).requires_grad:
            return self._uncut(func, first)
        result = func(*args, **kwargs)
        inputs = tree_leaves((args, kwargs))
        # An operation in place returns its input, or nothing: a second call would change it again.
        if not isinstance(result, Tensor) or any(result is value for value in inputs):
            return result
        is_soft = any(_soft(value) is not value for value in inputs)
        args, kwargs = tree_map(_soft, (args, kwargs))
        smooth = _approximation(func, result, args, kwargs)
        if smooth is None and is_soft:
            smooth = _on_approximations(func, result, args, kwargs)
        return result if smooth is None or not smooth.requires_grad else self._attached(smooth, result)

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

    def _uncut(self, func: Callable[..., Any], first: Tensor) -> Any:
        """What an operation that cuts the gradient returns, without the cut."""
        self.replaced += 1
        if func is Tensor.register_hook:
            return RemovableHandle(OrderedDict())
        same = first.view_as(first)
        return same if _soft(first) is first else self._attached(_soft(first), same)

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
def _replaced_functions(mode: _StraightThroughMode, namespaces: Sequence[object]) -> Iterator[None]:
    """Replaces functions that a mode does not see.

    - Custom functions differentiate what their forward pass computes, in place of their backward pass.
    - ``torch.from_numpy`` follows arrays.

    Args:
        mode: Counts and follows them.
        namespaces: Where these functions may have other names.
    """
    usual_apply, usual_from_numpy = vars(torch.autograd.Function)["apply"], torch.from_numpy

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return usual_apply.__get__(None, cls)(*args, **kwargs)
        mode.replaced += 1
        if cls.setup_context is not _NO_SETUP:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(), *args, **kwargs)

    def from_numpy(ndarray: Any) -> Tensor:
        with _NO_MODE():
            return mode.entered(ndarray, usual_from_numpy(ndarray))

    def replacement(value: Any) -> Any:
        if value is usual_apply:
            return classmethod(apply)
        if value is usual_from_numpy:
            return from_numpy
        cls = getattr(value, "__self__", None)
        is_apply = isinstance(cls, type) and issubclass(cls, torch.autograd.Function) and value == cls.apply
        return partial(apply, cls) if is_apply else value

    # The base class comes last: until then, its apply is what the other names stand for.
    with replaced_names([*namespaces, torch, torch.autograd.Function], replacement):
        yield


def _approximation(
    func: Callable[..., Any], result: Tensor, args: Sequence[Any], kwargs: dict[str, Any]
) -> Tensor | None:
    """A differentiable approximation of an operation that has no gradient of its own; ``None`` for any other operation.

    Args:
        func: The operation.
        result: Its result.
        args: Its arguments, in which differentiable approximations replace masks and integers.
        kwargs: Likewise.
    """
    first: Tensor = _argument(args, kwargs, 0, "input")
    other = _argument(args, kwargs, 1, "other")
    is_cast_or_bit_mask = func in _CASTS or (func in _AND and result.dtype != torch.bool)
    if func in _STEPS or (is_cast_or_bit_mask and not result.is_floating_point()):
        return first
    if func in _FLOOR_DIVISIONS:
        return torch.true_divide(first, other)
    if func in _COMPARISONS:
        return torch.sigmoid((other - first if func in _LESS else first - other) / _WIDTH)
    dim = _argument(args, kwargs, 1, "dim")
    return first.softmax(dim) if func in _CHOICES and dim is not None and first.is_floating_point() else None


def _on_approximations(
    func: Callable[..., Any], result: Tensor, args: Sequence[Any], kwargs: dict[str, Any]
) -> Tensor | None:
    """The same operation on the approximations of masks and integers; ``None`` where it does not take them.

    Args:
        func: See :func:`_approximation`; also the others.
        result: Has the expected shape.
        args: They hold the approximations.
        kwargs: Likewise.
    """
    try:
        smooth = _ON_APPROXIMATIONS.get(func, func)(*args, **kwargs)
    # A float is no index, and some operations take no floats.
    except (RuntimeError, TypeError, IndexError, ValueError):
        return None
    return smooth if isinstance(smooth, Tensor) and smooth.shape == result.shape else None


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

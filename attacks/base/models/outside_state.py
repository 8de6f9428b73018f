"""The state that a model's code keeps outside of the model: globals of its files and attributes of its classes."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.user_code import code_of

__all__ = ["own_outside_state", "preserve_outside_state"]

_CONTAINERS = (tuple, list, dict, set, frozenset, deque)
_DATA = (
    *(bool, int, float, complex, str, bytes, bytearray, *_CONTAINERS, itertools.count),
    *(type(None), Tensor, np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
)

_LARGEST = 2**26
"""The most bytes that are copied. What is larger is shared: it is more likely a data set than a memory."""


def own_outside_state(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Lets the passes of a model read and change a copy of the state outside of it.

    A copy of this model has a copy of this state. The state holds data only: plain values, arrays, generators, containers and
    objects of the same code, 64 MiB in total. What else is in them is shared: networks, figures, objects of other libraries.
    The state does not hold attributes of functions, closures, and modules that no class of the model comes from.

    Args:
        model: A model that nobody else uses. A model that has its own state already is left as it is.
        memo: What :func:`copy.deepcopy` has copied of the model.

    Returns:
        The same model.
    """
    code, hooks = code_of(model), model._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public list of hooks
    if code and not any(isinstance(getattr(hook, "__self__", None), _OutsideState) for hook in hooks):
        state = _OutsideState(code, {} if memo is None else memo)
        model.register_forward_pre_hook(state.enter, prepend=True)
        model.register_forward_hook(state.leave, always_call=True)
    return model


@contextmanager
def preserve_outside_state(model: nn.Module) -> Iterator[None]:
    """Gives the state outside of a model its values back after some passes, such as those of a check when it is loaded.

    Args:
        model: The model.
    """
    state = _OutsideState(code_of(model), {})
    state.enter()
    try:
        yield
    finally:
        state.leave()


class _OutsideState:
    """A copy of the data in a user's modules and classes, which takes the place of theirs during a pass.

    Args:
        namespaces: See :func:`code_of`.
        memo: What :func:`copy.deepcopy` has copied of the model.
    """

    def __init__(self, namespaces: list[ModuleType | type], memo: dict[int, Any]) -> None:
        self._namespaces = namespaces
        self._modules = frozenset(module.__name__ for module in namespaces if isinstance(module, ModuleType))
        self._outer: list[list[dict[str, Any]]] = []
        self._own = self._copied([self._data(namespace) for namespace in namespaces], memo)

    def __deepcopy__(self, memo: dict[int, Any]) -> _OutsideState:
        """Copies the values, not the modules and classes."""
        copied = copy.copy(self)
        vars(copied).update(_outer=[], _own=self._copied(self._own, memo))
        return copied

    def enter(self, *_: Any) -> None:
        """Begins a pass."""
        self._outer.append(
            [self._exchanged(namespace, values) for namespace, values in zip(self._namespaces, self._own, strict=True)]
        )

    def leave(self, *_: Any) -> None:
        """Ends a pass."""
        outer = self._outer.pop()
        self._own = [
            self._exchanged(namespace, values) for namespace, values in zip(self._namespaces, outer, strict=True)
        ]

    def _exchanged(self, namespace: ModuleType | type, values: dict[str, Any]) -> dict[str, Any]:
        """Puts values in a module or class, and returns those that were there."""
        before = self._data(namespace)
        for name in before.keys() - values.keys():
            delattr(namespace, name)
        for name, value in values.items():
            if before.get(name, self) is not value:
                setattr(namespace, name, value)
        return before

    def _data(self, namespace: ModuleType | type) -> dict[str, Any]:
        """The values of a module or class, by name, that are data or objects of a class of the same modules."""
        return {
            name: value
            for name, value in vars(namespace).items()
            if self._is_data(value) and not (name.startswith("__") and name.endswith("__"))
        }

    def _is_data(self, value: object) -> bool:
        cls: type = type(value)
        return _is_data(cls, self._modules)

    def _copied(self, own: list[dict[str, Any]], memo: dict[int, Any]) -> list[dict[str, Any]]:
        """Copies of values that share what is too large or no data, and the values themselves where they cannot be copied."""
        self._share(own, memo)
        return [{name: _copied(value, memo) for name, value in values.items()} for values in own]

    def _share(self, own: list[dict[str, Any]], memo: dict[int, Any]) -> None:
        """Notes what a deep copy shall share."""
        seen, room = set[int](), float(_LARGEST)
        todo = deque(value for values in own for value in values.values())
        while todo:
            value = todo.popleft()
            if id(value) in seen:
                continue
            seen.add(id(value))
            size = _size(value)
            if size > room or not self._is_data(value):
                memo.setdefault(id(value), value)
                continue
            room -= size
            if isinstance(value, _CONTAINERS) or not isinstance(value, _DATA):
                todo += gc.get_referents(value)


@cache
def _is_data(cls: type, modules: frozenset[str]) -> bool:
    """Whether the values of a class are data. It is remembered, since every pass looks at all values."""
    return not issubclass(cls, (nn.Module, type)) and (issubclass(cls, _DATA) or cls.__module__ in modules)


def _size(value: Any) -> float:
    """The bytes that a copy takes, without what a container or an object holds."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        # A view is copied with all of its storage.
        return value.untyped_storage().nbytes()
    if isinstance(value, np.ndarray):
        # An array of objects may hold anything, such as the axes of a figure.
        return math.inf if value.dtype.hasobject else value.nbytes
    return sys.getsizeof(value)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - a user's object may raise anything
        return value

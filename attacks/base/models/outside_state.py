"""The state that a model's code keeps outside of the model: globals of its files and attributes of its classes."""

from __future__ import annotations

import copy
import itertools
import random
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

_DATA = (
    *(bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, deque, itertools.count),
    *(type(None), Tensor, np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
)

_LARGEST = 2**26
"""The most bytes of an array that is copied. A larger one is shared: it is more likely a data set than a memory."""


def own_outside_state(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Lets the passes of a model read and change a copy of the state outside of it.

    A copy of this model has a copy of this state. The state holds data only: no functions, classes, networks, or arrays of more
    than 64 MiB. It does not hold attributes of functions, closures, and modules that no class of the model comes from.

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
        self._own = [_copied(self._data(namespace), memo) for namespace in namespaces]

    def __deepcopy__(self, memo: dict[int, Any]) -> _OutsideState:
        """Copies the values, not the modules and classes."""
        copied = copy.copy(self)
        vars(copied).update(_outer=[], _own=[_copied(values, memo) for values in self._own])
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
            if _is_data(type(value), self._modules)  # type: ignore[arg-type] # a class is hashable
            and not (name.startswith("__") and name.endswith("__"))
            and getattr(value, "nbytes", 0) <= _LARGEST
        }


@cache
def _is_data(cls: type, modules: frozenset[str]) -> bool:
    """Whether the values of a class are data. It is remembered, since every pass looks at all values."""
    return not issubclass(cls, (nn.Module, type)) and (issubclass(cls, _DATA) or cls.__module__ in modules)


def _copied(values: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of values, and the values themselves where they cannot be copied."""
    copies = {}
    for name, value in values.items():
        try:
            copies[name] = copy.deepcopy(value, memo)
        except Exception:  # noqa: BLE001 - a user's object may raise anything
            copies[name] = value
    return copies

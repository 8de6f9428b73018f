"""The state that a model's code keeps outside of the model: globals of its files and attributes of its classes."""

from __future__ import annotations

import copy
import itertools
import random
from collections import deque
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.user_code import code_of

__all__ = ["own_outside_state"]

_DATA = (
    *(bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, deque, itertools.count),
    *(type(None), Tensor, np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
)

_LARGEST = 2**26
"""The bytes from which an array is not copied. It is shared then: it is rather a data set than a memory."""


def own_outside_state(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Lets the passes of a model read and change a copy of the state outside of it; returns the same model.

    A copy of this model has a copy of this state. It holds data only: no functions, classes, networks, or arrays of more than
    64 MiB. Attributes of functions, closures, and modules that no class of the model comes from are not seen.

    Args:
        model: Nobody else's passes go through it. It is left as it is if it has such a state already.
        memo: What :func:`copy.deepcopy` has copied of the model.
    """
    code, hooks = code_of(model), model._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public list of hooks
    if code and not any(isinstance(getattr(hook, "__self__", None), _OutsideState) for hook in hooks):
        state = _OutsideState(code, {} if memo is None else memo)
        model.register_forward_pre_hook(state.enter, prepend=True)
        model.register_forward_hook(state.leave, always_call=True)
    return model


class _OutsideState:
    """Data of a user's code by place and name, which replace those of these places during a pass.

    Args:
        places: See :func:`code_of`.
        memo: What :func:`copy.deepcopy` has copied of the model.
    """

    def __init__(self, places: list[ModuleType | type], memo: dict[int, Any]) -> None:
        self._places = places
        self._outer: list[list[dict[str, Any]]] = []
        self._own = [_copied(self._data(place), memo) for place in places]

    def __deepcopy__(self, memo: dict[int, Any]) -> _OutsideState:
        """The values are copied, the places are not."""
        copied = copy.copy(self)
        vars(copied).update(_outer=[], _own=[_copied(values, memo) for values in self._own])
        return copied

    def enter(self, *_: Any) -> None:
        """Begins a pass."""
        self._outer.append(
            [self._exchanged(place, values) for place, values in zip(self._places, self._own, strict=True)]
        )

    def leave(self, *_: Any) -> None:
        """Ends a pass."""
        outer = self._outer.pop()
        self._own = [self._exchanged(place, values) for place, values in zip(self._places, outer, strict=True)]

    def _exchanged(self, place: ModuleType | type, values: dict[str, Any]) -> dict[str, Any]:
        """Puts values in a place, and returns those that were there."""
        before = self._data(place)
        for name in before.keys() - values.keys():
            delattr(place, name)
        for name, value in values.items():
            if before.get(name, self) is not value:
                setattr(place, name, value)
        return before

    def _data(self, place: ModuleType | type) -> dict[str, Any]:
        """The values of a place by name that are data, or objects of a class of the same modules."""
        modules = {module.__name__ for module in self._places if isinstance(module, ModuleType)}
        return {
            name: value
            for name, value in vars(place).items()
            if not (name.startswith("__") and name.endswith("__"))
            and (isinstance(value, _DATA) or type(value).__module__ in modules)
            and not isinstance(value, (nn.Module, type))
            and getattr(value, "nbytes", 0) <= _LARGEST
        }


def _copied(values: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of values, and the values themselves where they cannot be copied."""
    copies = {}
    for name, value in values.items():
        try:
            copies[name] = copy.deepcopy(value, memo)
        except Exception:  # noqa: BLE001 - a user's object may raise anything
            copies[name] = value
    return copies

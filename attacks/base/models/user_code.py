"""The modules and classes of a user's code for a model, and other values for the names in them."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

__all__ = ["code_of", "replaced_names"]

_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))


def code_of(model: nn.Module) -> list[ModuleType | type]:
    """The modules and the classes of a user's code for a model, where the names that it reads are looked up.

    Args:
        model: Its own class counts, those of its layers, and their bases; the code of libraries does not.
    """
    classes = {base: None for layer in model.modules() for base in type(layer).__mro__ if _is_own(base.__module__)}
    return [*{sys.modules[base.__module__]: None for base in classes}, *classes]


def _is_own(name: str) -> bool:
    """Whether a module is a user's file, or typed into a console."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return module is not None and name == "__main__"
    return not any(Path(file).resolve().is_relative_to(library) for library in _LIBRARIES)


@contextmanager
def replaced_names(places: Iterable[object], replacement: Callable[[Any], Any]) -> Iterator[None]:
    """Gives names other values inside the context.

    Args:
        places: Modules, classes or objects.
        replacement: Returns what replaces a value; the value itself where nothing does.
    """
    before: list[tuple[object, str, Any]] = []
    try:
        for place in places:
            for name, value in [*vars(place).items()]:
                new = replacement(value)
                if new is not value:
                    before.append((place, name, value))
                    setattr(place, name, new)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)

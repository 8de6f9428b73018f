"""Finds the modules and classes of a user's code for a model, and replaces values in them."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

__all__ = ["code_of", "has_user_code", "replaced_names"]

_STANDARD_LIBRARY = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""The folders of installed libraries, wherever they are: an environment may also use those of the user or of the system."""


def code_of(model: nn.Module) -> list[ModuleType | type]:
    """The classes of a model and of its layers with their bases, and the modules of these classes. Libraries are left out.

    Args:
        model: The model.

    Returns:
        The modules and the classes, each once.
    """
    classes = {base: None for layer in model.modules() for base in type(layer).__mro__ if _is_own(base.__module__)}
    return [*{sys.modules[base.__module__]: None for base in classes}, *classes]


def has_user_code(model: nn.Module) -> bool:
    """Whether a part of a model is a class of a user.

    A checkout of this project is no library, so :func:`code_of` has the project's own classes there. They do not count here.

    Args:
        model: The model.
    """
    classes = (code for code in code_of(model) if isinstance(code, type))
    return any(not cls.__module__.startswith("robustbench_cli.") for cls in classes)


def _is_own(name: str) -> bool:
    """Whether a module is a user's file, or typed into a console."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return module is not None and name == "__main__"
    path = Path(file).resolve()
    return _INSTALLED.isdisjoint(path.parts) and not any(map(path.is_relative_to, _STANDARD_LIBRARY))


@contextmanager
def replaced_names(namespaces: Iterable[object], replacement: Callable[[Any], Any]) -> Iterator[None]:
    """Replaces attributes of modules, classes or objects inside the context.

    Args:
        namespaces: The modules, classes or objects, each once.
        replacement: Returns what replaces a value; the value itself where nothing does.
    """
    before: list[tuple[object, str, Any]] = []
    try:
        for namespace in namespaces:
            for name, value in [*vars(namespace).items()]:
                new = replacement(value)
                if new is not value:
                    before.append((namespace, name, value))
                    setattr(namespace, name, new)
        yield
    finally:
        for namespace, name, value in before:
            setattr(namespace, name, value)

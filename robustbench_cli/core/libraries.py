"""Imports optional libraries."""

from __future__ import annotations

import importlib
from types import ModuleType

from robustbench_cli.core.errors import UserError, one_line

__all__ = ["require_library"]


def require_library(module: str, *, needed_by: str, extra: str = "", install: str = "") -> ModuleType:
    """Imports an optional library.

    Args:
        module: Its name in Python.
        needed_by: What needs it, for the message.
        extra: The extra of advdef that installs it.
        install: The command that installs it, where no extra does.

    Raises:
        UserError: It is not installed, or cannot be imported.
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            command = install or f"pip install 'advdef[{extra}]'"
            raise UserError(f"{needed_by} needs {name}: install it with {command}") from None
        # Older libraries import a part of setuptools that version 81 has removed.
        hint = ": install it with pip install 'setuptools<81'" if getattr(error, "name", "") == "pkg_resources" else ""
        raise UserError(f"{needed_by} needs {name}, which cannot be imported: {one_line(error)}{hint}") from error

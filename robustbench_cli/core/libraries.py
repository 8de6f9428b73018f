"""Imports optional libraries."""

from __future__ import annotations

import importlib
from types import ModuleType

from robustbench_cli.core.errors import UserError

__all__ = ["require_library"]


def require_library(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Imports an optional library.

    Args:
        module: Its name in Python.
        extra: The extra of advdef that installs it.
        needed_by: What needs it, for the message.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(f"{needed_by} needs {module}: install it with pip install 'advdef[{extra}]'") from None

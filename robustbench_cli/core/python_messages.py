"""Messages of the command line for Python callers: keywords in place of options."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from robustbench_cli.core.errors import Notice, UserError

__all__ = ["names_keywords", "with_keywords"]

P = ParamSpec("P")
R = TypeVar("R")


def with_keywords(message: str) -> str:
    """A message with keywords in place of options.

    Args:
        message: As the command line prints it.

    >>> with_keywords("give --mean and --std, or --class-names FILE")
    'give mean and std, or class_names'
    >>> with_keywords("it has 10 classes: give --classes 10")
    'it has 10 classes: give classes=10'
    """
    message = re.sub(r", as in (--\S+ [^\s,]+ ?)+", "", message)
    message = re.sub(r"--checkpoint(?: FILE)?", "a file", message)
    message = re.sub(r"--image-size (\S+) to resize", "its shape", message)
    message = re.sub(r"--([a-z][a-z-]*) ([0-9][\w.]*)", r"--\1=\2", message)
    return re.sub(r"(?<!\S)--([a-z][a-z-]*)(?: FILE| NAME)?", lambda option: option[1].replace("-", "_"), message)


def names_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that only Python calls: its errors and notices name keywords where they name options.

    Args:
        function: Raises a :class:`UserError` or warns with a :class:`Notice`.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = function(*args, **kwargs)
            except UserError as error:
                raise UserError(with_keywords(str(error))) from error.__cause__
        for warning in caught:
            text = str(warning.message)
            is_ours = issubclass(warning.category, Notice)
            warnings.warn(with_keywords(text) if is_ours else text, warning.category, stacklevel=2)
        return result

    return called

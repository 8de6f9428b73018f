"""What becomes of a user's own code: where an error in it arose, and where none of it is imported."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from robustbench_cli.core.errors import UserError, one_line

__all__ = ["failure_in_own_code", "note_own_code", "own_code_refused", "require_allowed"]

_labels: dict[str, list[str]] = {}
"""What the user named in this process, such as ``defense my.py:Mine``, by the file of its code."""


def note_own_code(file: str | None, label: str) -> None:
    """Remembers a file of code that the user named.

    Args:
        file: The module's ``__file__``; ``None`` is ignored.
        label: The kind of the object and its name, such as ``defense my.py:Mine``.
    """
    if file is not None and label not in _labels.setdefault(file, []):
        _labels[file].append(label)


def failure_in_own_code(error: BaseException) -> str | None:
    """The message of an error that passed through a user's own code; ``None`` for any other error.

    Args:
        error: As it was caught, with its traceback.
    """
    steps = [step for step in traceback.walk_tb(error.__traceback__) if step[0].f_code.co_filename in _labels]
    if not steps:
        return None
    # A defense calls the model, which was checked by itself.
    outermost = steps[0][0].f_code.co_filename
    frame, line = [step for step in steps if step[0].f_code.co_filename == outermost][-1]
    code = frame.f_code
    labels, file = _labels[code.co_filename], Path(code.co_filename).name
    # A file may have a model and several defenses.
    owners = [label for label in labels if label.endswith(f":{code.co_qualname.partition('.')[0]}")] or labels
    subject = owners[0] if len(owners) == 1 else file
    return f"{subject} fails in {code.co_name} ({file}, line {line}): {one_line(error)}"


_refusal: ContextVar[str | None] = ContextVar("refusal", default=None)
"""Why no code of the user is imported now."""


@contextmanager
def own_code_refused(reason: str) -> Iterator[None]:
    """Imports no code but that of installed names within a ``with`` block.

    Args:
        reason: Why, and what would be right, for the message.

    >>> with own_code_refused("name the suite with --suite"):
    ...     require_allowed("net.py:build")
    Traceback (most recent call last):
    robustbench_cli.core.errors.UserError: the code net.py:build is not imported: name the suite with --suite
    """
    token = _refusal.set(reason)
    try:
        yield
    finally:
        _refusal.reset(token)


def require_allowed(name: str) -> None:
    """Makes sure that a user's own code may be imported now.

    Args:
        name: What the code was named, such as ``my.py:Mine``.

    Raises:
        UserError: See :func:`own_code_refused`.
    """
    if (reason := _refusal.get()) is not None:
        raise UserError(f"the code {name} is not imported: {reason}")

"""Names the line of a user's own code at which an error arose."""

from __future__ import annotations

import traceback
from pathlib import Path

from robustbench_cli.core.errors import one_line

__all__ = ["failure_in_own_code", "note_own_code"]

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

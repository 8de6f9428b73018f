"""The exit codes, and the exceptions that end a command with an exit code of their own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "CELLS_FAILED",
    "DONE",
    "GATE_FAILED",
    "INTERNAL_ERROR",
    "INTERRUPTED",
    "USAGE_ERROR",
    "CellsFailed",
    "EndWithLines",
    "GateFailed",
    "resumes",
    "unfinished",
]

DONE = 0
GATE_FAILED = 1

USAGE_ERROR = 2
"""A usage error, invalid input, or a problem of the machine, such as a full disk."""

CELLS_FAILED = 3
"""Cells failed or are missing."""

INTERNAL_ERROR = 4
INTERRUPTED = 130


class EndWithLines(Exception):  # noqa: N818 - the name says what happened
    """Ends the command with an exit code, and with lines on stderr.

    Args:
        lines: The lines.

    Attributes:
        code: The exit code.
    """

    code: ClassVar[int]

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class GateFailed(EndWithLines):
    """Exit code 1: a gate failed.

    Args:
        lines: A line for each row that breaks a limit, with its value and the limit.
    """

    code = GATE_FAILED


class CellsFailed(EndWithLines):
    """Exit code 3: cells failed or are missing; the rest are stored.

    Args:
        lines: A line for each such cell.
        resumable: Whether the same command computes them again.
    """

    code = CELLS_FAILED

    def __init__(self, lines: Sequence[str], *, resumable: bool = False) -> None:
        super().__init__(lines)
        self.resumable = resumable


_RESUMED = ("attack", "audit", "certify", "demo", "reprogram", "sweep", "train")
"""The commands that resume when they are run again."""


def resumes(arguments: Sequence[str]) -> bool:
    """Whether a command resumes when it is run again.

    Args:
        arguments: The arguments after ``advdef``.
    """
    return bool(arguments) and arguments[0] in _RESUMED


def unfinished(reason: str, arguments: Sequence[str]) -> str:
    """The last line of a command that did not finish, which says how to resume it.

    Args:
        reason: Why it ended.
        arguments: The arguments after ``advdef``.
    """
    if not resumes(arguments):
        return reason
    return f"{reason}: what was finished is stored; resume with: {shlex.join(['advdef', *arguments])}"

"""The exceptions that end a command with an exit code of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = ["CellsFailed", "GateFailed", "interrupted"]


class _Lines(Exception):  # noqa: N818 - the name says what happened
    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class GateFailed(_Lines):
    """Exit code 1: a gate failed.

    Args:
        lines: A line for each row that breaks a limit, with its value and the limit.
    """


class CellsFailed(_Lines):
    """Exit code 3: cells failed or are missing; the rest are stored.

    Args:
        lines: A line for each such cell.
    """


_RESUMED = ("attack", "audit", "certify", "demo", "reprogram", "sweep", "train")
"""The commands that resume when they are run again."""


def interrupted(arguments: Sequence[str]) -> str:
    """The last line of an interrupted command, which says how to resume it.

    Args:
        arguments: The arguments after ``advdef``.
    """
    if not arguments or arguments[0] not in _RESUMED:
        return "interrupted"
    return f"interrupted: what was finished is stored; resume with: {shlex.join(['advdef', *arguments])}"

"""How a command ends other than well: each exception here stands for one exit code, which ``main`` maps."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CellsFailed", "GateFailed", "Interrupted"]


class _Lines(Exception):  # noqa: N818 - named for what happened, not for being raised
    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class GateFailed(_Lines):
    """Exit code 1: a gate did not pass.

    Args:
        lines: One for each gate that did not pass: which value, which limit.
    """


class CellsFailed(_Lines):
    """Exit code 3: cells failed or are missing; the rest are stored.

    Args:
        lines: One for each such cell.
    """


class Interrupted(KeyboardInterrupt):
    """Exit code 130: a command that computes was interrupted, and the same command resumes it.

    Args:
        stored: What is kept and where, as the end of "interrupted: ...".
    """

    def __init__(self, stored: str = "what was finished is stored") -> None:
        super().__init__(stored)
        self.stored = stored

"""Reads lists of names: text files with one name per line."""

from __future__ import annotations

from pathlib import Path

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.regular_file import read_bounded

__all__ = ["read_names"]

_LARGEST_LIST = 10**8
"""The most bytes of a list; one of all 50,000 validation images of ImageNet has 2 million."""


def read_names(path: Path, *, kind: str = "name", least: int = 1) -> tuple[str, ...]:
    """The lines of a text file, in their order. Empty lines at its end do not count.

    Args:
        path: The file, in UTF-8.
        kind: What a line is, for messages.
        least: The smallest number of names, at least 1.

    Raises:
        UserError: The file cannot be read, is too large, is no text, has an empty line between names, or has too few names.
    """
    try:
        lines = [line.strip() for line in read_bounded(path, _LARGEST_LIST).decode("utf-8-sig").rstrip().splitlines()]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a text file with one {kind} per line"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8: give a text file with one {kind} per line") from None
    # A name that is left out would shift the numbers of those after it.
    if "" in lines:
        raise UserError(f"{path}: line {lines.index('') + 1} is empty: give one {kind} per line")
    if len(lines) < least:
        raise UserError(f"{path} has {len(lines)} names: give one {kind} per line, at least {least}")
    return tuple(lines)

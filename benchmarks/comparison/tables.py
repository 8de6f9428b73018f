"""Markdown tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown"]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is aligned left and all others right.

    Args:
        columns: The headers.
        rows: The texts of the cells.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    lines = [list(columns), *(list(row) for row in rows)]
    if any(len(line) != len(columns) for line in lines):
        raise ValueError(f"each row needs {len(columns)} cells")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))

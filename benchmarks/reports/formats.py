"""The formats that a table is written in: for each its name, its file endings and its writer.

A new format is one more entry of :data:`FORMATS`. The choices of ``--format`` and the endings of ``-o`` follow from it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.readable import readable, records
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_csv, escaped_for_markdown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "Format", "as_text", "file_endings", "format_names", "format_of_file", "markdown"]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: Its name for ``--format``.
        endings: The endings of its files, the usual one first.
        write: Writes a table as text.
        any_table: Whether it takes tables with any columns, and not only the table of results.
    """

    name: str
    endings: tuple[str, ...]
    write: Callable[[pd.DataFrame], str]
    any_table: bool = False


def _rounded(value: Any) -> Any:
    """A number to 12 digits, the same in every file: 0.928 rather than 0.9279999999999999."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _field(value: Any) -> Any:
    return escaped_for_csv(value) if isinstance(value, str) else _rounded(value)


def _csv(table: pd.DataFrame) -> str:
    columns = []
    for name in table.columns:
        # Most values of a column are equal to others. A missing one is an empty field.
        fields = {value: _field(value) for value in set(table[name].dropna().tolist())}
        columns.append([fields.get(value, "") for value in table[name].tolist()])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue()


def _json(table: pd.DataFrame) -> str:
    """A list of objects, with ``null`` for missing values."""
    return json.dumps(records(table.map(_rounded)), indent=1) + "\n"


def _markdown(table: pd.DataFrame) -> str:
    columns, lines = readable(table)
    headers = [entry.shown.header for entry in columns if entry.shown is not None]
    return markdown(headers, [entry.is_numeric for entry in columns], lines)


def markdown(headers: Sequence[str], numeric: Sequence[bool], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        headers: The headers.
        numeric: Whether each column is right-justified.
        lines: The texts of the rows, not yet escaped.
    """
    rule = ["---" if is_numeric else ":--" for is_numeric in numeric]
    cells = [[escaped_for_markdown(text) for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headers, rule, *cells))


FORMATS: tuple[Format, ...] = (
    Format("csv", (".csv",), _csv, any_table=True),
    Format("json", (".json",), _json, any_table=True),
    Format("markdown", (".md",), _markdown),
)
"""The formats of files; the drawing for a terminal is the command line's."""


def format_names() -> list[str]:
    """The formats' names."""
    return [entry.name for entry in FORMATS]


def file_endings(*, any_table: bool = False) -> list[str]:
    """The endings of files that a table can be written to.

    Args:
        any_table: Whether the table has other columns than the table of results.
    """
    return [ending for entry in FORMATS if entry.any_table or not any_table for ending in entry.endings]


def as_text(table: pd.DataFrame, name: str) -> str:
    """A table in a format.

    Args:
        table: The rows.
        name: One of :func:`format_names`.
    """
    return next(entry for entry in FORMATS if entry.name == name).write(table)


def format_of_file(path: Path, *, any_table: bool = False) -> str:
    """The name of the format that a file's ending selects.

    Args:
        path: The file.
        any_table: Whether the table has other columns than the table of results.

    Raises:
        UserError: No possible format has the ending.
    """
    endings = file_endings(any_table=any_table)
    for entry in FORMATS:
        if path.suffix.lower() in endings and path.suffix.lower() in entry.endings:
            return entry.name
    raise UserError(f"-o {path}: the ending selects the format: give one of {', '.join(endings)}")

"""Tables as texts for people: the columns of the table of results and the texts of its rows, and any other table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.columns import Column, shown_columns

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ReadableTable", "ambiguous_files", "hiding_order", "readable", "records"]


@dataclass(frozen=True, kw_only=True)
class ReadableTable:
    """A table other than that of results, as texts.

    Attributes:
        headers: The headers.
        numeric: Whether each column is right-justified.
        lines: The texts of the rows.
        hideable: The headers of columns that a narrow terminal may hide, the least important first.
        title: The line above.
        caption: The lines below.
        sections: A label for each row; a blank line separates rows with different labels.
    """

    headers: Sequence[str]
    numeric: Sequence[bool]
    lines: Sequence[Sequence[str]]
    hideable: Sequence[str] = ()
    title: str = ""
    caption: Sequence[str] = ()
    sections: Sequence[str] = ()


def readable(table: pd.DataFrame, hidden: Collection[str] = ()) -> tuple[list[Column], list[list[str]]]:
    """The columns of a table for people, and the texts of its rows.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        hidden: What to leave out; see :func:`hiding_order`.
    """
    files = ambiguous_files(
        zip(table[["dataset", "model", "defense"]].itertuples(index=False), table["checkpoint"], strict=True)
    )
    columns = [entry for entry in shown_columns(table) if entry.shown is not None and entry.shown.header not in hidden]
    intervals = {entry.name: _interval(entry) not in hidden for entry in columns}
    rows = [record | {"checkpoint": files.get(record["checkpoint"])} for record in records(table)]
    return columns, [[entry.text(row, interval=intervals[entry.name]) for entry in columns] for row in rows]


def hiding_order(table: pd.DataFrame) -> list[str]:
    """What a narrow terminal hides, the least important first: confidence intervals, then whole columns."""
    ranked: list[tuple[int, str]] = []
    for entry in shown_columns(table):
        assert entry.shown is not None
        if entry.shown.interval is not None and entry.shown.hide_interval is not None:
            ranked.append((entry.shown.hide_interval, _interval(entry)))
        if entry.shown.hide is not None:
            ranked.append((entry.shown.hide, entry.shown.header))
    return [name for _, name in sorted(ranked)]


def _interval(entry: Column) -> str:
    """The name of a column's interval in :func:`hiding_order`."""
    return f"{entry.shown.header} interval" if entry.shown is not None else ""


def ambiguous_files(checkpoints: Iterable[tuple[Hashable, str]]) -> dict[str, str]:
    """Short names for checkpoints, where their models' names do not distinguish them.

    Args:
        checkpoints: The names of each model, and its checkpoint's path.

    Returns:
        The files' names by path, or the whole paths where two files have the same name. Empty where no two models have
        the same names.
    """
    paths: defaultdict[Hashable, set[str]] = defaultdict(set)
    for label, path in checkpoints:
        paths[label].add(path)
    if all(len(group) == 1 for group in paths.values()):
        return {}
    names = {path: Path(path).name for group in paths.values() for path in group}
    return names if len(set(names.values())) == len(names) else {path: path for path in names}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain data, with ``None`` for missing values."""
    import pandas as pd

    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]

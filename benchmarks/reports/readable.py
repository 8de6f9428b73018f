"""Tables as texts for people: the columns of the table of results and the texts of its rows, and any other table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.columns import Column, flag_names, shown_columns
from robustbench_cli.benchmarks.reports.legend import flag_marks
from robustbench_cli.benchmarks.reports.selection import selected_columns
from robustbench_cli.core.escaping import shortened

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FLAG_NAMES",
    "ReadableTable",
    "ambiguous_files",
    "hiding_order",
    "readable",
    "records",
    "sections",
    "share_text",
]

FLAG_NAMES = "flag names"
"""What is hidden where a row has the marks of its flags; see :func:`~.legend.flag_marks`."""


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


def readable(
    table: pd.DataFrame, hidden: Collection[str] = (), *, names: Sequence[str] | None = None
) -> tuple[list[Column], list[list[str]]]:
    """The columns of a table for people, and the texts of its rows.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        hidden: What to leave out; see :func:`hiding_order`.
        names: The names of the columns; by default those of :func:`~.columns.shown_columns`.
    """
    files = ambiguous_files(
        zip(table[["dataset", "model", "defense"]].itertuples(index=False), table["checkpoint"], strict=True)
    )
    columns = [
        entry for entry in _columns(table, names) if entry.shown is not None and entry.shown.header not in hidden
    ]
    intervals = {entry.name: _interval(entry) not in hidden for entry in columns}
    rows = records(table)
    if names is None:
        rows = [row | {"checkpoint": files.get(row["checkpoint"])} for row in rows]
    if FLAG_NAMES in hidden:
        marks = flag_marks(table)
        for row in rows:
            row["flags"] = ",".join(marks[flag] for flag in flag_names(row["flags"]))
    return columns, [[shortened(entry.text(row, interval=intervals[entry.name])) for entry in columns] for row in rows]


def hiding_order(table: pd.DataFrame, *, names: Sequence[str] | None = None) -> list[str]:
    """What a narrow terminal hides, the least important first: the names of flags, intervals, then whole columns.

    Args:
        table: The rows.
        names: The names of columns that the user chose, of which none is hidden.
    """
    ranked: list[tuple[int, str]] = []
    columns = _columns(table, names)
    for entry in columns:
        assert entry.shown is not None
        if entry.shown.interval is not None and entry.shown.hide_interval is not None:
            ranked.append((entry.shown.hide_interval, _interval(entry)))
        if entry.shown.hide is not None and names is None:
            ranked.append((entry.shown.hide, entry.shown.header))
    flags = [FLAG_NAMES] if any(entry.name == "flags" for entry in columns) else []
    return flags + [name for _, name in sorted(ranked)]


def sections(table: pd.DataFrame) -> list[str]:
    """A label for each row, equal for the rows of one defense; empty where the order of the rows mixes defenses.

    Args:
        table: The rows.
    """
    labels = list(zip(*(table[name].astype(str) for name in ("dataset", "model", "defense")), strict=True))
    runs = [label for label, before in zip(labels, [None, *labels], strict=False) if label != before]
    return [" ".join(label) for label in labels] if len(runs) == len({*runs}) else []


def _columns(table: pd.DataFrame, names: Sequence[str] | None) -> list[Column]:
    return shown_columns(table) if names is None else selected_columns(names)


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


def share_text(row: Mapping[str, Any], name: str) -> str:
    """A share, such as an accuracy, in percent with its interval, rounded outwards.

    Args:
        row: A row as plain data.
        name: The column of the share.

    >>> share_text({"recall": 0.412, "recall_low": 0.381, "recall_high": 0.4436}, "recall")
    '41.2 [38,45]'
    """
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{100 * value:.1f} [{math.floor(100 * low)},{math.ceil(100 * high)}]"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain data, with ``None`` for missing values."""
    columns = (
        [None if absent else value for value, absent in zip(entries.tolist(), entries.isna().tolist(), strict=True)]
        for _, entries in table.items()
    )
    names = [str(name) for name in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

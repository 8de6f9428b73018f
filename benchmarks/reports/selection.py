"""The columns and the order of the rows that a user chooses for the table of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports import columns
from robustbench_cli.benchmarks.reports.columns import Column, Shown
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["parse_columns", "parse_sort", "require_columns", "selected_columns", "sorted_rows", "without_names"]

_SORTED_BY = {"eps": "eps_value"}
"""The columns that sort the rows in the place of others: ``8/255`` is not larger than ``0.1``, though its text is."""


def parse_columns(text: str) -> list[str]:
    """Reads the names of columns, such as ``defense,eps,robust_accuracy``.

    Raises:
        UserError: A name is unknown, or is given twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        _require_known(name, f"--columns '{text}'")
        if names.count(name) > 1:
            raise UserError(f"--columns '{text}': '{name}' is given twice: leave one out")
    return names


def parse_sort(text: str) -> str:
    """Checks the name of a column to sort by, such as ``eps`` or, from the largest value down, ``-robust_accuracy``.

    Raises:
        UserError: The name is unknown.
    """
    _require_known(text.removeprefix("-"), f"--sort '{text}'")
    return text


def _require_known(name: str, option: str) -> None:
    known = [entry.name for entry in columns.COLUMNS]
    if name not in known:
        raise UserError(f"{option}: unknown column '{name}': {did_you_mean(name, known)}")


def require_columns(table: pd.DataFrame, names: Sequence[str], *, option: str) -> None:
    """Makes sure that a table has columns.

    Args:
        table: The table.
        names: The names of columns.
        option: The option that names them.

    Raises:
        UserError: It lacks one.
    """
    for name in names:
        if name not in table.columns:
            raise UserError(f"{option} {name}: the table has no such column: its store has no certificates")


_NAMING = (
    *("dataset", "model", "checkpoint", "defense", "corruption", "severity", "attack", "norm", "eps", "targeted"),
    *("eot", "n", "repeats", "seed", "mean", "std", "cell"),
)
"""The columns that say which row a row is, in the order in which they are added; ``cell`` always does."""


def without_names(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The columns that a choice of columns lacks to tell the rows apart.

    Args:
        table: The rows.
        names: The chosen columns.
    """
    chosen = [name for name in _NAMING if name in names and name in table.columns]
    lacking: list[str] = []
    groups = len(table[chosen].drop_duplicates()) if chosen else min(1, len(table))
    for name in _NAMING:
        if groups < len(table) and name in table.columns and name not in chosen:
            more = len(table[[*chosen, *lacking, name]].drop_duplicates())
            lacking += [name] if more > groups else []
            groups = more
    return lacking


def sorted_rows(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Sorts rows; those without a value come last, and equal ones keep their order.

    Args:
        table: The rows.
        keys: The names of columns, the most important first; ``-`` in front sorts from the largest value down.

    Raises:
        UserError: The table has no such column.
    """
    for key in reversed(keys):
        name = key.removeprefix("-")
        require_columns(table, [name], option="--sort")
        table = table.sort_values(
            _SORTED_BY.get(name, name), ascending=not key.startswith("-"), kind="stable", na_position="last"
        )
    return table


def selected_columns(names: Sequence[str]) -> list[Column]:
    """The columns of some names, each in its form for people; those that are usually only in files too.

    Args:
        names: The names, from left to right.
    """
    return [
        entry if entry.shown is not None else replace(entry, shown=Shown(entry.name))
        for entry in map(columns.column, names)
    ]

"""Judges a table: compares its values with limits, or with an earlier table."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.reports.columns import (
    WORST_CASE,
    column,
    column_names,
    gated_columns,
    identity_columns,
)
from robustbench_cli.benchmarks.reports.gate_options import Gate, gate_with
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.escaping import unescaped_from_csv

__all__ = [
    "Limit",
    "Verdict",
    "compare",
    "compare_with_baseline",
    "parse_conditions",
    "parse_limit",
    "read_baseline",
    "select",
    "select_cells",
    "unmet",
    "without_baseline",
]

_ROUNDING = 1e-12
"""The tolerance of a comparison: 0.8 - 0.78 is above 0.02 in floating point."""


@dataclass(frozen=True)
class Limit:
    """A limit for the values of a column.

    Attributes:
        column: The column's name.
        value: The limit, or the largest change against a baseline.
    """

    column: str
    value: float

    @property
    def is_upper(self) -> bool:
        """Whether lower values are better, so that the limit is an upper one."""
        return column(self.column).gate == "lower"


@dataclass(frozen=True)
class Verdict:
    """The result of a gate.

    Attributes:
        broken: A line for each row that breaks the limit.
        missing: A line for each row that cannot be judged.
        left_out: The indices of the rows at any distance, which an accuracy under attack does not judge.
    """

    broken: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[Any] = field(default_factory=list)


def parse_limit(text: str, *, gate: Gate) -> Limit:
    """Reads a limit such as ``robust_accuracy=0.40``.

    Args:
        text: ``COLUMN=VALUE``.
        gate: The gate that the limit is for.

    Raises:
        UserError: The column is unknown or cannot be judged, the option is for columns of the other direction, or the
            value is not a number of the column's range.
    """
    option = gate.option
    name, equals, value = (part.strip() for part in text.partition("="))
    if name not in gated_columns():
        raise UserError(f"{option} '{text}': unknown column '{name}': {did_you_mean(name, gated_columns())}")
    try:
        # Not 0.4_0 or other scripts' digits, which Python takes too.
        number = float(value) if re.fullmatch(r"[0-9eE.+-]+", value) else math.nan
    except ValueError:
        number = math.nan
    if not equals or not math.isfinite(number):
        raise UserError(f"{option} '{text}': give COLUMN=VALUE, such as robust_accuracy=0.40")
    if column(name).kind == "share" and number > 1:
        hint = f"did you mean {number / 100:g}?" if number <= 100 else "give a number up to 1"
        raise UserError(f"{option} '{text}': {name} is a share, from 0 to 1: {hint}")
    limit = Limit(name, number)
    if limit.is_upper != gate.upper:
        better = "lower" if limit.is_upper else "higher"
        opposite = gate_with(upper=limit.is_upper, baseline=gate.baseline).option
        raise UserError(f"{option} '{text}': {better} is better in {name}: give {opposite} {name}={value}")
    return limit


def parse_conditions(conditions: Sequence[str], *, option: str = "--where") -> dict[str, list[str]]:
    """Reads ``KEY=VALUE`` conditions into the values allowed for each column.

    Args:
        conditions: The conditions.
        option: The option that they are of, for messages.

    Raises:
        UserError: A key is not a column, or a value is missing.
    """
    allowed: dict[str, list[str]] = defaultdict(list)
    for condition in conditions:
        key, equals, value = (part.strip() for part in condition.partition("="))
        if key not in column_names():
            raise UserError(f"{option} '{condition}': unknown column '{key}': {did_you_mean(key, column_names())}")
        if not equals:
            raise UserError(f"{option} '{condition}': give KEY=VALUE, such as defense=hrs")
        allowed[key].append(value)
    return dict(allowed)


def select(table: pd.DataFrame, allowed: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Selects the rows whose columns have one of the allowed values; ``hrs`` also fits ``hrs(channels=[10,10])``.

    Args:
        table: The rows.
        allowed: The values allowed for each column.
    """
    selected = pd.Series(True, index=table.index)
    for name, values in allowed.items():
        selected &= _fits(table[name], values)
    return table[selected]


def select_cells(table: pd.DataFrame, allowed: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Selects the allowed rows of cells without a result.

    A worst case is incomplete as long as any cell of its model and threat is missing.

    Args:
        table: The rows of cells that failed or are missing.
        allowed: See :func:`select`.
    """
    every_attack = WORST_CASE in allowed.get("attack", ())
    return select(table, {key: values for key, values in allowed.items() if key != "attack" or not every_attack})


def unmet(
    tables: Sequence[pd.DataFrame], allowed: Mapping[str, Sequence[str]], *, option: str = "--where"
) -> list[str]:
    """Explains the conditions that no row of some tables fits.

    Args:
        tables: The tables.
        allowed: See :func:`select`.
        option: The option that the conditions are of, for messages.

    Returns:
        A line for each value that no row has, with the values that exist. If rows have each value but none has them all,
        one line.
    """
    lines = []
    for name, values in allowed.items():
        entries = pd.Series([value for table in tables for value in table[name]], dtype=object, name=name)
        existing = sorted(set(entries.dropna().astype(str)))
        listed = ", ".join(f"'{value}'" for value in existing[:20])
        listed += f" and {len(existing) - 20} more" if existing[20:] else ""
        lines += [
            f"{option} '{name}={value}' fits no row: {f'there is {listed}' if existing else f'no row has a {name}'}"
            for value in values
            if not _fits(entries, [value]).any()
        ]
    if not lines and allowed and all(select(table, allowed).empty for table in tables):
        conditions = " and ".join(f"{name}={' or '.join(values)}" for name, values in allowed.items())
        lines.append(f"{option}: no row has {conditions}: leave one of them out to see what there is")
    return lines


def _fits(entries: pd.Series, values: Sequence[str]) -> pd.Series:
    texts = entries.astype(str)
    fits = texts.isin(values)
    if entries.name in {"attack", "corruption", "defense"}:
        fits |= texts.map(lambda text: re.sub(r"\([^)]*\)", "", text), na_action="ignore").isin(values)
    return fits


_HINT = "give a .csv file that 'advdef report -o' wrote"


def read_baseline(path: Path, *, option: str = "--baseline") -> pd.DataFrame:
    """Reads an earlier table, as ``-o FILE.csv`` wrote it.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Returns:
        The columns that gates judge as numbers, all others as text.

    Raises:
        UserError: The file cannot be read or lacks a column.
    """
    try:
        _require_complete_lines(path)
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError, csv.Error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise UserError(f"{option} {path} cannot be read ({reason}): {_HINT}") from None
    identity = identity_columns(available=())
    missing = [name for name in (*identity, "robust_accuracy") if name not in table.columns]
    if missing:
        raise UserError(f"{option} {path} has no column '{missing[0]}': {_HINT}")
    for name in sorted({*gated_columns()} & {*table.columns}):
        try:
            table[name] = pd.to_numeric(table[name])
        except ValueError as error:
            raise UserError(f"{option} {path}: {name}: {one_line(error)}: {_HINT}") from None
    for name in identity_columns(available=table.columns):
        table[name] = table[name].map(unescaped_from_csv, na_action="ignore")
    return table


def _require_complete_lines(path: Path) -> None:
    """Refuses a table that is cut off or damaged, since pandas fills up a line that is too short.

    Raises:
        csv.Error: A line has more or fewer values than there are columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, strict=True)
        columns = len(next(lines, []))
        for line in lines:
            if line and len(line) != columns:
                raise csv.Error(
                    f"line {lines.line_num} has {len(line)} values for {columns} columns: it is cut off or damaged"
                )


def compare(table: pd.DataFrame, limit: Limit) -> Verdict:
    """Compares every row with a limit, unrounded.

    Args:
        table: The rows.
        limit: A lower limit, or an upper one where lower values are better.
    """
    only = column(limit.column).only
    rows = {index: row for index, row in table.iterrows() if _is_judged(row, only)}
    verdict = Verdict(left_out=[index for index in table.index if index not in rows] if only == "radius" else [])
    if table.empty:
        option = gate_with(upper=limit.is_upper, baseline=False).option
        verdict.missing.append(f"{option} {limit.column}={limit.value:g}: there is no row to judge")
    elif not rows and only in _NO_ROW:
        verdict.missing.append(f"{limit.column}: {_NO_ROW[only]}")
    hint = ": give --corruption-baseline alexnet or FILE.csv" if limit.column == "mce" else ""
    for row in rows.values():
        value = row[limit.column]
        if pd.isna(value):
            verdict.missing.append(f"{_name(row)}: there is no {limit.column} to judge{hint}")
        elif _worse(value, limit.value, limit) > _ROUNDING:
            side = "above" if limit.is_upper else "below"
            verdict.broken.append(f"{_name(row)}: {limit.column} {value:.6g} is {side} {limit.value:g}")
    return verdict


_NO_ROW = {
    "means": "there is no mean over corruptions without an attack to judge: run --suite corruptions",
    "radius": "there is no row with a radius to judge: attack with --norm and --eps, or judge mean_l2",
}
"""What is missing where no row is one of :attr:`~.columns.Column.only`. Not each table has a defended model."""


def _is_judged(row: pd.Series, only: str | None) -> bool:
    """Whether a gate judges a row; see :attr:`~.columns.Column.only`."""
    if only == "means":
        return not pd.isna(row["mean_corruption_accuracy"])
    if only == "radius":
        return row["attack"] == "none" or (not pd.isna(row["eps"]) and row["eps"] != "")
    return only is None or row["defense"] != "none"


def _worse(value: float, other: float, limit: Limit) -> float:
    """By how much a value is worse than another."""
    return value - other if limit.is_upper else other - value


def compare_with_baseline(table: pd.DataFrame, baseline: pd.DataFrame, limit: Limit) -> Verdict:
    """Compares every row with the baseline's row of the same comparison, unrounded.

    A row that the baseline does not have is not judged; see :func:`without_baseline`. A row of the baseline that the
    table does not have cannot be judged, nor can a comparison of which either has several rows.

    Args:
        table: The rows.
        baseline: The earlier rows.
        limit: The largest change to the worse.

    Raises:
        UserError: The baseline lacks the limit's column.
    """
    option = gate_with(upper=limit.is_upper, baseline=True).option
    verdict = Verdict()
    if baseline.empty:
        verdict.missing.append(f"{option} {limit.column}={limit.value:g}: the baseline has no row to compare with")
    if limit.column not in baseline.columns:
        raise UserError(f"{option} {limit.column}: the baseline has no such column")
    names = _identity(table, baseline)
    before = {_key(row, names): row[limit.column] for _, row in baseline.iterrows()}
    counts = [Counter(_key(row, names) for _, row in side.iterrows()) for side in (table, baseline)]
    judged = set()
    for _, row in table.iterrows():
        key = _key(row, names)
        if key not in before or key in judged:
            continue
        judged.add(key)
        if max(count[key] for count in counts) > 1:
            verdict.missing.append(
                f"{_name(row)}: several rows are alike in all but the checkpoint: name one with --where"
            )
        else:
            _compare_row(row, before[key], limit, verdict)
    for _, row in baseline.iterrows():
        if _key(row, names) not in judged:
            verdict.missing.append(f"{_name(row)}: it is in the baseline, and not in the table")
    return verdict


def _compare_row(row: pd.Series, old: Any, limit: Limit, verdict: Verdict) -> None:
    """Compares a row with its value in the baseline."""
    new: Any = row[limit.column]
    if pd.isna(old) and pd.isna(new):
        return
    if pd.isna(old) or pd.isna(new):
        side = "baseline" if pd.isna(old) else "table"
        verdict.missing.append(f"{_name(row)}: the {side} has no {limit.column} for it")
    elif _worse(new, old, limit) > limit.value + _ROUNDING:
        change = "rose" if limit.is_upper else "fell"
        verdict.broken.append(
            f"{_name(row)}: {limit.column} {change} from {old:.6g} to {new:.6g}, by more than {limit.value:g}"
        )


def without_baseline(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """A line for each row that the baseline does not have.

    Args:
        table: The rows.
        baseline: The earlier rows.
    """
    names = _identity(table, baseline)
    before = {_key(row, names) for _, row in baseline.iterrows()}
    return [
        f"{_name(row)}: it is not in the baseline, and so is not judged"
        for _, row in table.iterrows()
        if _key(row, names) not in before
    ]


def _identity(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """The columns in which two rows of the same comparison agree, without those that an older baseline lacks."""
    return identity_columns(available={*table.columns} & {*baseline.columns})


def _key(row: pd.Series, names: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if pd.isna(row[name]) else str(row[name]) for name in names)


def _name(row: pd.Series) -> str:
    radius = f" eps {row['eps']}" if not pd.isna(row["eps"]) and row["eps"] else ""
    mean, std = (str(row.get(name)) for name in ("mean", "std"))
    model = f"{row['model']} (mean {mean} std {std})" if mean not in {"None", "nan", ""} else row["model"]
    corrupted = [row.get("corruption"), row.get("severity")]
    corruption = "".join(f" {value}" for value in corrupted if not pd.isna(value) and value != "")
    threat = "" if row["attack"] == "none" else f" {row['norm']}{radius}"
    return f"{row['dataset']} {model} {row['defense']}{corruption} {row['attack']}{threat}"

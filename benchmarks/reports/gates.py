"""Judges a table: compares its values with limits, or with an earlier table."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
from robustbench_cli.core.regular_file import read_text

__all__ = [
    "GateResult",
    "Judgment",
    "Limit",
    "checkpoint_of",
    "compare",
    "compare_with_baseline",
    "parse_conditions",
    "parse_limit",
    "read_baseline",
    "row_identity",
    "row_name",
    "select",
    "select_cells",
    "unmet",
    "without_baseline",
]

Row = Mapping[str, Any] | pd.Series
"""A row of a table; a column without a value is ``None`` or NaN."""

_ROUNDING = 1e-12
"""The tolerance of a comparison: 0.8 - 0.78 is above 0.02 in floating point."""


@dataclass(frozen=True)
class Limit:
    """A limit for the values of a column.

    Attributes:
        column: The column's name.
        value: The limit, or the largest change against a baseline.
        relative: Whether the change is a part of the baseline's value.
        upper: Whether it is an upper limit, for a column in which neither higher nor lower values are better.
    """

    column: str
    value: float
    relative: bool = False
    upper: bool = False

    @property
    def is_upper(self) -> bool:
        """Whether the limit is an upper one: lower values are better."""
        better = column(self.column).gate
        return self.upper if better is None else better == "lower"

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Judgment:
    """What a gate says of one row.

    Attributes:
        outcome: ``"missing"`` where the row cannot be judged.
        reason: The values, or why they cannot be judged.
        row: The row in words; empty where a gate has no row.
        identity: See :func:`row_identity`.
        checkpoint: The file of the row's model; empty where it is unknown.
    """

    outcome: Literal["passed", "failed", "missing"]
    reason: str = ""
    row: str = ""
    identity: str = field(default="", compare=False)
    checkpoint: str = field(default="", compare=False)

    @property
    def line(self) -> str:
        """The row and the reason."""
        return f"{self.row}: {self.reason}" if self.row else self.reason


@dataclass(frozen=True)
class GateResult:
    """The result of a gate.

    Attributes:
        judgments: One per row that the gate judges, and one where there is none.
        left_out: The indices of the rows at any distance, which an accuracy under attack does not judge.
    """

    judgments: list[Judgment] = field(default_factory=list)
    left_out: list[Any] = field(default_factory=list)

    def add(self, row: Row | None, outcome: Literal["passed", "failed", "missing"], reason: str = "") -> None:
        """Adds what the gate says of a row.

        Args:
            row: The row; ``None`` where there is none.
            outcome: See :class:`Judgment`.
            reason: See :class:`Judgment`.
        """
        of_row = () if row is None else (row_name(row), row_identity(row), checkpoint_of(row))
        self.judgments.append(Judgment(outcome, reason, *of_row))

    @property
    def broken(self) -> list[str]:
        """A line for each row that breaks the limit."""
        return [judgment.line for judgment in self.judgments if judgment.outcome == "failed"]

    @property
    def missing(self) -> list[str]:
        """A line for each row that cannot be judged."""
        return [judgment.line for judgment in self.judgments if judgment.outcome == "missing"]


def parse_limit(text: str, *, gate: Gate, location: str = "") -> Limit:
    """Reads a limit such as ``robust_accuracy=0.40``, or ``robust_accuracy=5%`` for a change against a baseline.

    Args:
        text: ``COLUMN=VALUE``.
        gate: The gate that the limit is for.
        location: The file and line of a gate in a suite, for messages; empty for an option.

    Raises:
        UserError: The column is unknown or cannot be judged, the gate is for columns of the other direction, or the
            value is not a number of the column's range.
    """
    option = f"{location}: {gate.name}" if location else gate.option
    name, equals, value = (part.strip() for part in text.partition("="))
    allowed = _allowed_columns(gate)
    if name not in allowed:
        raise UserError(f"{option} '{text}': {_unknown_column(name, allowed)}")
    relative = gate.baseline and value.endswith("%")
    number = _number(value.removesuffix("%") if relative else value) / (100 if relative else 1)
    if not equals or not math.isfinite(number):
        hint = ""
        if value.endswith("%") and math.isfinite(share := _number(value[:-1]) / 100):
            hint = f": did you mean {share:g}?"
        raise UserError(f"{option} '{text}': give COLUMN=VALUE, such as {_EXAMPLES[gate.baseline]}{hint}")
    if gate.baseline and number < 0:
        raise UserError(f"{option} '{text}': the largest change is negative: give a number from 0 on")
    if column(name).kind == "share" and not relative and not 0 <= number <= 1:
        hint = f"did you mean {number / 100:g}?" if 1 < number <= 100 else "give a number from 0 to 1"
        raise UserError(f"{option} '{text}': {name} is a share, from 0 to 1: {hint}")
    limit = Limit(name, number, relative=relative, upper=gate.upper)
    if limit.is_upper != gate.upper:
        better = "lower" if limit.is_upper else "higher"
        other = gate_with(upper=limit.is_upper, baseline=gate.baseline)
        opposite = f"{other.name}:" if location else other.option
        raise UserError(f"{option} '{text}': {better} is better in {name}: give {opposite} {name}={value}")
    return limit


_EXAMPLES = {False: "robust_accuracy=0.40", True: "robust_accuracy=0.02 or robust_accuracy=5%"}
"""Limits, by whether they are changes against a baseline."""


def _allowed_columns(gate: Gate) -> list[str]:
    """The columns that a gate may judge. Rows are compared with a baseline only if their identities are equal."""
    identity = identity_columns() if gate.baseline else ()
    return [name for name in gated_columns() if name not in identity]


def _unknown_column(name: str, allowed: Sequence[str]) -> str:
    if name in gated_columns():
        return f"{name} never changes: only rows that agree in it are compared; give one of {', '.join(allowed)}"
    if name in column_names():
        return f"unknown column '{name}' among those of numbers: {did_you_mean(name, allowed)}"
    if name.strip("%").replace(".", "", 1).isdecimal():
        return f"'{name}' is a limit without its column: give one, as in robust_accuracy={name}"
    return f"unknown column '{name}': {did_you_mean(name, allowed)}"


def _number(text: str) -> float:
    """Reads a number in plain digits: not 0.4_0 or other scripts' digits, which Python takes too; NaN for other texts."""
    try:
        return float(text) if re.fullmatch(r"[0-9eE.+-]+", text) else math.nan
    except ValueError:
        return math.nan


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
        text = read_text(path)
        _require_complete_lines(text)
        table = pd.read_csv(io.StringIO(text), dtype=str)
    except (OSError, ValueError, csv.Error) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{option} {path} cannot be read ({reason}): {_HINT}") from None
    identity = identity_columns(available=())
    missing = [name for name in (*identity, "robust_accuracy") if name not in table.columns]
    if missing:
        raise UserError(f"{option} {path} has no column '{missing[0]}': {_HINT}")
    # The identity of a row is compared as text.
    for name in sorted({*gated_columns()} & {*table.columns} - {*identity_columns()}):
        try:
            table[name] = pd.to_numeric(table[name])
        except ValueError as error:
            raise UserError(f"{option} {path}: {name}: {one_line(error)}: {_HINT}") from None
        if column(name).kind == "share" and (strange := table[name][(table[name] < 0) | (table[name] > 1)]).size:
            raise UserError(f"{option} {path}: {name} is {strange.iloc[0]:g}, which is no share: {_HINT}")
    for name in identity_columns(available=table.columns):
        table[name] = table[name].map(unescaped_from_csv, na_action="ignore")
    return table


def _require_complete_lines(text: str) -> None:
    """Refuses a table that is cut off or damaged, since pandas fills up a line that is too short.

    Raises:
        csv.Error: A line has more or fewer values than there are columns.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = len(next(lines, []))
    for line in lines:
        if line and len(line) != columns:
            raise csv.Error(
                f"line {lines.line_num} has {len(line)} values for {columns} columns: it is cut off or damaged"
            )


def compare(table: pd.DataFrame, limit: Limit) -> GateResult:
    """Compares every row with a limit, unrounded.

    Args:
        table: The rows.
        limit: A lower limit, or an upper one where lower values are better.
    """
    only = column(limit.column).only
    rows = {index: row for index, row in table.iterrows() if _is_judged(row, only)}
    result = GateResult(left_out=[index for index in table.index if index not in rows] if only == "radius" else [])
    if table.empty:
        option = gate_with(upper=limit.is_upper, baseline=False).option
        result.add(None, "missing", f"{option} {limit.column}={limit}: there is no row to judge")
    elif not rows and only in _NO_ROW:
        result.add(None, "missing", f"{limit.column}: {_NO_ROW[only]}")
    hint = ": give --corruption-baseline alexnet or FILE.csv" if limit.column == "mce" else ""
    for row in rows.values():
        value = row[limit.column]
        above, below = ("above", "at most") if limit.is_upper else ("at least", "below")
        if pd.isna(value):
            result.add(row, "missing", f"there is no {limit.column} to judge{hint}")
        elif _worse(value, limit.value, limit) > _ROUNDING:
            side = above if limit.is_upper else below
            result.add(row, "failed", f"{limit.column} {value:.6g} is {side} {limit}")
        else:
            side = below if limit.is_upper else above
            result.add(row, "passed", f"{limit.column} {value:.6g} is {side} {limit}")
    return result


_NO_ROW = {
    "certified": "there is no certificate to judge: run 'advdef certify' with the same store",
    "means": "there is no mean over corruptions without an attack to judge: run --suite corruptions",
    "radius": "there is no row with a radius to judge: attack with --norm and --eps, or judge mean_l2",
}
"""What is missing where no row is one of :attr:`~.columns.Column.only`. Not each table has a defended model."""


def _is_judged(row: pd.Series, only: str | None) -> bool:
    """Whether a gate judges a row; see :attr:`~.columns.Column.only`."""
    if only == "certified":
        return not pd.isna(row.get("certified_accuracy"))
    if only == "means":
        return not pd.isna(row["mean_corruption_accuracy"])
    if only == "radius":
        return row["attack"] == "none" or (not pd.isna(row["eps"]) and row["eps"] != "")
    return only is None or row["defense"] != "none"


def _worse(value: float, other: float, limit: Limit) -> float:
    """By how much a value is worse than another."""
    return value - other if limit.is_upper else other - value


def compare_with_baseline(table: pd.DataFrame, baseline: pd.DataFrame, limit: Limit) -> GateResult:
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
    result = GateResult()
    if baseline.empty:
        result.add(None, "missing", f"{option} {limit.column}={limit}: the baseline has no row to compare with")
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
            result.add(row, "missing", "several rows are alike in all but the checkpoint: name one with --where")
        else:
            _compare_row(row, before[key], limit, result)
    for _, row in baseline.iterrows():
        if _key(row, names) not in judged:
            result.add(row, "missing", "it is in the baseline, and not in the table")
    return result


def _compare_row(row: pd.Series, old: Any, limit: Limit, result: GateResult) -> None:
    """Compares a row with its value in the baseline."""
    # A table has the columns of certificates only where there are any.
    new: Any = row.get(limit.column)
    if pd.isna(old) and pd.isna(new):
        return
    if pd.isna(old) or pd.isna(new):
        side = "baseline" if pd.isna(old) else "table"
        result.add(row, "missing", f"the {side} has no {limit.column} for it")
        return
    largest = limit.value * (abs(old) if limit.relative else 1)
    if _worse(new, old, limit) > largest + _ROUNDING:
        change = "rose" if limit.is_upper else "fell"
        result.add(row, "failed", f"{limit.column} {change} from {old:.6g} to {new:.6g}, by more than {limit}")
    else:
        result.add(row, "passed", f"{limit.column} was {old:.6g} and is {new:.6g}")


def without_baseline(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """A line for each row that the baseline does not have.

    Args:
        table: The rows.
        baseline: The earlier rows.
    """
    names = _identity(table, baseline)
    before = {_key(row, names) for _, row in baseline.iterrows()}
    return [
        f"{row_name(row)}: it is not in the baseline, and so is not judged"
        for _, row in table.iterrows()
        if _key(row, names) not in before
    ]


def _identity(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """The columns in which two rows of the same comparison agree, without those that an older baseline lacks."""
    return identity_columns(available={*table.columns} & {*baseline.columns})


def _key(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if pd.isna(row[name]) else str(row[name]) for name in names)


def row_identity(row: Row) -> str:
    """The columns in which rows of the same comparison agree, as one text: the same after another training.

    Args:
        row: A row of the table.
    """
    return "\x1f".join(_key(row, [name for name in identity_columns() if name in row]))


def checkpoint_of(row: Row) -> str:
    """The file of a row's model; empty where it is unknown.

    Args:
        row: A row of the table.
    """
    checkpoint = row.get("checkpoint")
    return checkpoint if isinstance(checkpoint, str) else ""


def row_name(row: Row) -> str:
    """A row in a few words; rows of different :func:`row_identity` have different names.

    Args:
        row: A row of the table.
    """
    eps = row.get("eps")
    radius = f" eps {eps}" if not pd.isna(eps) and eps else ""
    mean, std = (str(row.get(name)) for name in ("mean", "std"))
    model = f"{row['model']} (mean {mean} std {std})" if mean not in {"None", "nan", ""} else row["model"]
    corrupted = [row.get("corruption"), row.get("severity")]
    corruption = "".join(f" {value}" for value in corrupted if not pd.isna(value) and value != "")
    threat = "" if row["attack"] == "none" else f" {row['norm']}{radius}"
    others = {name: str(row[name]) for name in _USUAL if not pd.isna(row.get(name))}
    unusual = "".join(f" {name} {value}" for name, value in others.items() if value not in _USUAL[name])
    return f"{row['dataset']} {model} {row['defense']}{corruption} {row['attack']}{threat}{unusual}"


_USUAL = {
    "targeted": {"no", ""},
    "eot": {"1", ""},
    "n": {""},
    "repeats": {"1", ""},
    "seed": {"0", ""},
    "accounting": {"expected", ""},
    "stop_when_decided": {""},
}
"""The values that the name of a row leaves out, by column."""

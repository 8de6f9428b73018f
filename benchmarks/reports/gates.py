"""Judges a table: limits for its figures, alone or against an earlier table."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from robustbench_cli.benchmarks.reports.rows import COLUMNS, WORST_CASE
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.escaping import unescaped_from_csv

__all__ = [
    "Limit",
    "Verdict",
    "hold",
    "hold_to_baseline",
    "parse_conditions",
    "parse_limit",
    "read_baseline",
    "select",
    "select_cells",
    "unmet",
    "without_baseline",
]

SHARES = frozenset(
    {
        *(f"{kind}_accuracy{end}" for kind in ("clean", "robust") for end in ("", "_low", "_high")),
        "robust_accuracy_vote",
        "robust_accuracy_every_draw",
        "attack_success_rate",
    }
)
FIGURES = SHARES | {"mean_l2", "mean_linf", "des"}
"""The columns that a gate can judge."""

LOWER_IS_BETTER = frozenset({"attack_success_rate"})
"""Those of which a gate holds down what it holds up of the others."""

_OPPOSITE = {
    "--fail-under": "--fail-over",
    "--max-drop": "--max-rise",
    "--fail-over": "--fail-under",
    "--max-rise": "--max-drop",
}
_UPPER = ("--fail-over", "--max-rise")

KEYS = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed")
"""The columns that say which rows of two tables are the same comparison; a checkpoint may have been trained anew."""

LATER_KEYS = ("mean", "std")
"""Such columns that not every earlier table has."""

_ROUNDING = 1e-12
"""How far a figure may miss its limit: 0.8 - 0.78 is above 0.02 in floating point."""


@dataclass(frozen=True)
class Limit:
    """A column and a number."""

    column: str
    value: float


@dataclass(frozen=True)
class Verdict:
    """What a gate says.

    Attributes:
        broken: A line for each row that breaks the limit.
        missing: A line for each row that cannot be judged.
    """

    broken: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def parse_limit(words: str, *, option: str) -> Limit:
    """Reads ``robust_accuracy=0.40``.

    Raises:
        UserError: The column is none that can be judged, or none that this option judges the right way round; or the
            value is no number.
    """
    column, equals, value = (part.strip() for part in words.partition("="))
    if column not in FIGURES:
        raise UserError(f"{option} '{words}': unknown column '{column}': {did_you_mean(column, FIGURES)}")
    try:
        # Not 0.4_0 or other scripts' digits, which Python takes too.
        number = float(value) if re.fullmatch(r"[0-9eE.+-]+", value) else math.nan
    except ValueError:
        number = math.nan
    if not equals or not math.isfinite(number):
        raise UserError(f"{option} '{words}': give COLUMN=VALUE, such as robust_accuracy=0.40")
    if column in SHARES and number > 1:
        meant = f"did you mean {number / 100:g}?" if number <= 100 else "give a number up to 1"
        raise UserError(f"{option} '{words}': {column} is a share, from 0 to 1: {meant}")
    if (column in LOWER_IS_BETTER) != (option in _UPPER):
        better = "lower" if column in LOWER_IS_BETTER else "higher"
        raise UserError(
            f"{option} '{words}': {better} is better in {column}: give {_OPPOSITE[option]} {column}={value}"
        )
    return Limit(column, number)


def parse_conditions(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Reads ``KEY=VALUE`` conditions into the values allowed for each column.

    Raises:
        UserError: A key is no column, or there is no value.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for words in conditions:
        key, equals, value = (part.strip() for part in words.partition("="))
        if key not in COLUMNS:
            raise UserError(f"--where '{words}': unknown column '{key}': {did_you_mean(key, COLUMNS)}")
        if not equals:
            raise UserError(f"--where '{words}': give KEY=VALUE, such as defense=hrs")
        wanted[key].append(value)
    return dict(wanted)


def select(table: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows whose columns have one of the wanted values; ``hrs`` also stands for ``hrs(channels=[10,10])``."""
    keep = pd.Series(True, index=table.index)
    for column, values in wanted.items():
        keep &= _fits(table[column], values)
    return table[keep]


def select_cells(table: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The wanted rows of cells that have no result: a worst case lacks whatever cell of its model and threat is lacking."""
    every_attack = WORST_CASE in wanted.get("attack", ())
    return select(table, {key: values for key, values in wanted.items() if key != "attack" or not every_attack})


def unmet(tables: Sequence[pd.DataFrame], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wanted of some tables and in none of them.

    Returns:
        A line for each wanted value that no row has, with those that there are; or one line where each is there and no
        row has them all.
    """
    lines = []
    for name, values in wanted.items():
        column = pd.Series([value for table in tables for value in table[name]], dtype=object, name=name)
        there = sorted(set(column.dropna().astype(str)))
        told = ", ".join(f"'{word}'" for word in there[:20]) + (f" and {len(there) - 20} more" if there[20:] else "")
        lines += [
            f"--where '{name}={value}' fits no row: {f'there is {told}' if there else f'no row has a {name}'}"
            for value in values
            if not _fits(column, [value]).any()
        ]
    if not lines and wanted and all(select(table, wanted).empty for table in tables):
        each = " and ".join(f"{name}={' or '.join(values)}" for name, values in wanted.items())
        lines.append(f"--where: no row has {each}: leave one of them out to see what there is")
    return lines


def _fits(column: pd.Series, values: Sequence[str]) -> pd.Series:
    words = column.astype(str)
    fits = words.isin(values)
    if column.name in {"attack", "defense"}:
        fits |= words.map(lambda word: re.sub(r"\([^)]*\)", "", word)).isin(values)
    return fits


_WAY_OUT = "give a .csv file that 'advdef report -o' wrote"


def read_baseline(path: Path) -> pd.DataFrame:
    """An earlier table, as ``-o FILE.csv`` wrote it.

    Raises:
        UserError: The file cannot be read or lacks a column.
    """
    try:
        _require_whole_lines(path)
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError, csv.Error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise UserError(f"--baseline {path} cannot be read ({reason}): {_WAY_OUT}") from None
    missing = [column for column in (*KEYS, "robust_accuracy") if column not in table.columns]
    if missing:
        raise UserError(f"--baseline {path} has no column '{missing[0]}': {_WAY_OUT}")
    for column in sorted(FIGURES & {*table.columns}):
        try:
            table[column] = pd.to_numeric(table[column])
        except ValueError as error:
            raise UserError(f"--baseline {path}: {column}: {one_line(error)}: {_WAY_OUT}") from None
    for column in KEYS:
        table[column] = table[column].map(unescaped_from_csv, na_action="ignore")
    return table


def _require_whole_lines(path: Path) -> None:
    """Refuses a table that was cut off or damaged: pandas fills up a line that is too short, and shifts others."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, strict=True)
        columns = len(next(lines, []))
        for line in lines:
            if line and len(line) != columns:
                raise csv.Error(
                    f"line {lines.line_num} has {len(line)} values for {columns} columns: it is cut off or damaged"
                )


def hold(table: pd.DataFrame, limit: Limit) -> Verdict:
    """Holds every row to a lower limit, or an upper one where lower is better; compared unrounded."""
    down = limit.column in LOWER_IS_BETTER
    verdict = Verdict()
    if table.empty:
        option = "--fail-over" if down else "--fail-under"
        verdict.missing.append(f"{option} {limit.column}={limit.value:g}: there is no row to judge")
    for _, row in table.iterrows():
        value = row[limit.column]
        if pd.isna(value):
            if limit.column != "des" or row["defense"] != "none":
                verdict.missing.append(f"{_name(row)}: there is no {limit.column} to judge")
        elif _worse(value, limit.value, down=down) > _ROUNDING:
            side = "above" if down else "below"
            verdict.broken.append(f"{_name(row)}: {limit.column} {value:.6g} is {side} {limit.value:g}")
    return verdict


def _worse(value: float, than: float, *, down: bool) -> float:
    """By how much a figure is worse than another."""
    return value - than if down else than - value


def hold_to_baseline(table: pd.DataFrame, baseline: pd.DataFrame, limit: Limit) -> Verdict:
    """Holds every row to the baseline's row of the same comparison, with some leeway; compared unrounded.

    A row that the baseline does not have is not judged, see :func:`without_baseline`; a row of the baseline that the
    table does not have is missing, and so is one that several rows of either stand for.
    """
    down = limit.column in LOWER_IS_BETTER
    option = "--max-rise" if down else "--max-drop"
    verdict = Verdict()
    if baseline.empty:
        verdict.missing.append(f"{option} {limit.column}={limit.value:g}: the baseline has no row to compare with")
    if limit.column not in baseline.columns:
        raise UserError(f"{option} {limit.column}: the baseline has no such column")
    keys = _keys(table, baseline)
    before = {_key(row, keys): row[limit.column] for _, row in baseline.iterrows()}
    counts = [Counter(_key(row, keys) for _, row in each.iterrows()) for each in (table, baseline)]
    seen = set()
    for _, row in table.iterrows():
        key = _key(row, keys)
        if key not in before or key in seen:
            continue
        seen.add(key)
        old, new = before[key], row[limit.column]
        if max(count[key] for count in counts) > 1:
            verdict.missing.append(
                f"{_name(row)}: several rows are alike in all but the checkpoint: name one with --where"
            )
        elif pd.isna(old) and pd.isna(new):
            continue
        elif pd.isna(old) or pd.isna(new):
            verdict.missing.append(
                f"{_name(row)}: the {'baseline' if pd.isna(old) else 'table'} has no {limit.column} for it"
            )
        elif _worse(new, old, down=down) > limit.value + _ROUNDING:
            moved = "rose" if down else "fell"
            verdict.broken.append(
                f"{_name(row)}: {limit.column} {moved} from {old:.6g} to {new:.6g}, by more than {limit.value:g}"
            )
    for _, row in baseline.iterrows():
        if _key(row, keys) not in seen:
            verdict.missing.append(f"{_name(row)}: it is in the baseline, and not in the table")
    return verdict


def without_baseline(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """A line for each row that the baseline does not have."""
    keys = _keys(table, baseline)
    before = {_key(row, keys) for _, row in baseline.iterrows()}
    return [
        f"{_name(row)}: it is not in the baseline, and so is not judged"
        for _, row in table.iterrows()
        if _key(row, keys) not in before
    ]


def _keys(table: pd.DataFrame, baseline: pd.DataFrame) -> list[str]:
    """The columns that say which rows are the same comparison, as far as both tables have those that came later."""
    return [*KEYS, *(key for key in LATER_KEYS if key in table.columns and key in baseline.columns)]


def _key(row: pd.Series, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if pd.isna(row[key]) else str(row[key]) for key in keys)


def _name(row: pd.Series) -> str:
    radius = f" eps {row['eps']}" if not pd.isna(row["eps"]) and row["eps"] else ""
    mean, std = (str(row.get(key)) for key in LATER_KEYS)
    model = f"{row['model']} (mean {mean} std {std})" if mean not in {"None", "nan", ""} else row["model"]
    return f"{row['dataset']} {model} {row['defense']} {row['attack']} {row['norm']}{radius}"

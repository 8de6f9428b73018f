"""Which values of a table are the best among models under the same attack and threat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.evaluation.statistics.intervals import score_interval
from robustbench_cli.benchmarks.reports.columns import Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BEST", "best_values"]

BEST = (
    "the best of the models under the same attack and threat, and each whose 95 % interval overlaps that of the best; none where all "
    "do; rows with flags are not compared"
)
"""What the mark of a value means, for legends."""

_ALIKE = ("dataset", "attack", "norm", "eps", "targeted", "n", "corruption", "severity", "stop_when_decided")
"""The columns in which rows agree whose values are compared."""

_COMPARED = (
    *("clean_accuracy", "robust_accuracy", "robust_accuracy_vote", "robust_accuracy_every_draw"),
    *("attack_success_rate", "des", "mce", "certified_accuracy"),
)
"""The columns that are compared. The mean size of the perturbations that succeeded depends on how many did."""

_MODEL = ("model", "defense", "checkpoint")


def best_values(table: pd.DataFrame, columns: Sequence[Column]) -> list[set[str]]:
    """The columns in which each row has the best value of all models under the same attack and threat.

    A value is among the best unless its interval, where it has one, lies apart from that of the best. At least two models are
    compared, and where all are among the best none is marked. Rows with flags are left out, since an accuracy that is too
    high would be the best.

    Args:
        table: The rows.
        columns: The columns that are shown.

    Returns:
        The names of columns, for each row.
    """
    best: list[set[str]] = [set() for _ in range(len(table))]
    models, has_radius = _keys(table, _MODEL), [bool(eps) for eps in table["eps"]]
    # Their score is divided by chance.
    lossless = table.get("clean_accuracy_loss_within_interval")
    without_loss = set() if lossless is None else {row for row, value in enumerate(lossless) if value == 1}
    compared = [entry for entry in columns if entry.name in _COMPARED]
    values = {entry.name: table[entry.name].tolist() for entry in compared}
    ends = {entry.name: _ends(table, entry) for entry in compared}
    for rows in _groups(table):
        if len({models[row] for row in rows}) < 2:
            continue
        for entry in compared:
            column = values[entry.name]
            # A missing value is not equal to itself.
            present = [row for row in rows if column[row] == column[row] and column[row] is not None]
            if entry.only == "radius":
                present = [row for row in present if has_radius[row]]
            elif entry.name == "des":
                present = [row for row in present if row not in without_loss]
            if not present:
                continue
            first = (min if entry.gate == "lower" else max)(present, key=column.__getitem__)
            low, high = ends[entry.name]
            winners = [row for row in present if high[row] >= low[first] - 1e-12 and low[row] <= high[first] + 1e-12]
            for row in winners if len(winners) < len(present) else ():
                best[row].add(entry.name)
    return best


def _ends(table: pd.DataFrame, entry: Column) -> tuple[list[float], list[float]]:
    """The ends of the 95 % intervals of a column: those of the table, or Wilson's of a share; else the values themselves."""
    values = table[entry.name].astype(float).tolist()
    names = f"{entry.name}_low", f"{entry.name}_high"
    if {*names} <= {*table.columns}:
        low, high = (table[name].astype(float).tolist() for name in names)
        return low, high
    if entry.kind != "share":
        return values, values
    trials = table["n"] * (table["clean_accuracy"].astype(float) if entry.name == "attack_success_rate" else 1)
    intervals = [
        score_interval(value, number, 1.96) if number > 0 else (value, value)
        for value, number in zip(values, trials.tolist(), strict=True)
    ]
    return [low for low, _ in intervals], [high for _, high in intervals]


def _groups(table: pd.DataFrame) -> list[list[int]]:
    """The positions of the rows without flags that are compared with one another."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row, (key, flags) in enumerate(zip(_keys(table, _ALIKE), table["flags"].fillna(""), strict=True)):
        if not flags:
            groups[key].append(row)
    return list(groups.values())


def _keys(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The texts of each row in some columns; a table need not have all of them."""
    return list(zip(*(table[name].astype(str) for name in names if name in table.columns), strict=True))

"""Rows of the table: stored results with their worst cases and Defense Efficiency Scores."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.outcomes import Outcomes, summarise, worst_case
from robustbench_cli.benchmarks.statistics import defense_efficiency
from robustbench_cli.benchmarks.store import Result

__all__ = ["COLUMNS", "WORST_CASE", "rows"]

COLUMNS = (
    "dataset",
    "model",
    "checkpoint",
    "defense",
    "attack",
    "norm",
    "eps",
    "targeted",
    "eot",
    "n",
    "repeats",
    "seed",
    "clean_accuracy",
    "clean_accuracy_low",
    "clean_accuracy_high",
    "robust_accuracy",
    "robust_accuracy_low",
    "robust_accuracy_high",
    "robust_accuracy_vote",
    "robust_accuracy_every_draw",
    "attack_success_rate",
    "mean_l2",
    "mean_linf",
    "des",
    "flags",
    "forwards",
    "backwards",
    "seconds",
    "device",
    "cell",
    "des_low",
    "des_high",
    "clean_accuracy_loss_within_interval",
)
"""The columns of a row, in order."""

WORST_CASE = "worst-case"
"""The attack's name in the row that takes, for each image, the attack that the deployed rule survives least."""


def rows(results: Iterable[tuple[Result, Callable[[], Outcomes]]]) -> pd.DataFrame:
    """The table of some finished cells.

    Args:
        results: Each with a function that reads its outcomes, which only the cells that are combined with others need.

    Returns:
        One row a cell in the given order, the worst case of a model and threat after its attacks; columns
        :data:`COLUMNS`. A figure that there is not is missing (NaN); ``eps`` is as it was written, empty where none is.
    """
    groups: dict[str, list[_Row]] = defaultdict(list)
    for result, outcomes in results:
        row = _Row.of(result, outcomes)
        groups[row.subject_and_threat].append(row)
    table = []
    for group in groups.values():
        table += group
        if len(group) > 1:
            table.append(_Row.worst_case(group))
    undefended: dict[str, list[_Row]] = defaultdict(list)
    for row in table:
        if not row.result.cell.defenses:
            undefended[row.comparison].append(row)
    records = [row.record | _efficiency(row, undefended[row.comparison]) for row in table]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


class _Row:
    """A row in the making: its figures, what it stems from, and with which others it can be compared."""

    def __init__(self, record: dict[str, Any], result: Result, outcomes: Callable[[], Outcomes], attack: str) -> None:
        self.record = record
        self.result = result
        self.outcomes = outcomes
        cell = result.cell
        threat = [cell.data, cell.norm, cell.eps, cell.targeted, cell.seed]
        self.subject_and_threat = json.dumps([cell.checkpoint, cell.repeats, *threat])
        self.comparison = json.dumps([cell.model, attack, *threat])

    @classmethod
    def of(cls, result: Result, outcomes: Callable[[], Outcomes]) -> _Row:
        cell = result.cell
        record = {
            "dataset": cell.dataset,
            "model": cell.model,
            "checkpoint": result.checkpoint,
            "defense": cell.defense,
            "attack": cell.attack.label,
            "norm": cell.norm,
            "eps": result.eps,
            "targeted": cell.targeted,
            "eot": str(cell.eot),
            "n": cell.n,
            "repeats": cell.repeats,
            "seed": cell.seed,
            **result.summary,
            "flags": ";".join(result.flags),
            "forwards": result.forwards,
            "backwards": result.backwards,
            "seconds": result.seconds,
            "device": result.device,
            "cell": cell.id,
        }
        return cls(record, result, outcomes, cell.attack.model_dump_json(exclude={"changed"}))

    @classmethod
    def worst_case(cls, group: Sequence[_Row]) -> _Row:
        """The row of the worst case over the attacks of one model and threat."""
        outcomes = worst_case([row.outcomes() for row in group])
        cells = "".join(sorted(row.record["cell"] for row in group))
        everywhere = set.intersection(*(set(row.result.flags) for row in group))
        record = group[0].record | {
            "attack": WORST_CASE,
            "eot": "",
            **summarise(outcomes),
            "flags": ";".join(sorted(everywhere)),
            "cell": hashlib.sha256(cells.encode()).hexdigest()[:20],
        }
        for cost in ("forwards", "backwards", "seconds"):
            record[cost] = sum(row.record[cost] for row in group)
        return cls(record, group[0].result, lambda: outcomes, WORST_CASE)


def _efficiency(row: _Row, undefended: Sequence[_Row]) -> dict[str, Any]:
    """The columns of the Defense Efficiency Score; none without exactly one undefended model to compare with."""
    if not row.result.cell.defenses or len({base.result.cell.checkpoint for base in undefended}) != 1:
        return {}
    base, own = undefended[0].outcomes(), row.outcomes()
    score = defense_efficiency(
        undefended_success=base.success(),
        defended_success=own.success(),
        undefended_clean=base.clean_right.mean(axis=0),
        defended_clean=own.clean_right.mean(axis=0),
    )
    return {
        "des": score.score,
        "des_low": score.low,
        "des_high": score.high,
        "clean_accuracy_loss_within_interval": score.loss_within_interval,
    }

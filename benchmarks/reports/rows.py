"""Rows of the table: stored results with their worst cases and Defense Efficiency Scores."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize, worst_case
from robustbench_cli.benchmarks.evaluation.statistics import defense_efficiency
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.store import Failure, RequestedCell, Result
from robustbench_cli.benchmarks.store.worst_case_flags import Run, is_quick_look, worst_case_flags

__all__ = ["COLUMNS", "WORST_CASE", "failed_rows", "missing_rows", "rows"]

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
    "eps_value",
    "mean",
    "std",
    "checkpoint_sha256",
    "des_low",
    "des_high",
    "clean_accuracy_loss_within_interval",
    "quick_look",
)
"""The columns of a row, in order."""

WORST_CASE = "worst-case"
"""The attack's name in the row that takes, for each image, the attack that the deployed rule survives least."""


def rows(results: Iterable[tuple[Result, Callable[[], Outcomes]]]) -> pd.DataFrame:
    """The table of some finished cells.

    Args:
        results: Each with a function that reads its outcomes, which only the cells that are combined with others need.

    Returns:
        One row per cell in the given order, the worst case of a model and threat after its attacks; columns
        :data:`COLUMNS`. A cell whose condition did not hold has no row. A figure that there is not is missing (NaN);
        ``eps`` is as it was written, empty where none is. ``quick_look`` marks rows that
        :func:`~.headline.is_quick_look` speaks of, and a worst case has the flags of :func:`~.headline.worst_case_flags`.
    """
    groups: dict[Hashable, list[_Row]] = defaultdict(list)
    for result, outcomes in results:
        if result.was_skipped:
            continue
        row = _Row.of(result, outcomes)
        groups[row.model_and_threat].append(row)
    table: list[_Row] = []
    unwrapped_model: dict[Hashable, list[_Row]] = defaultdict(list)
    for group in groups.values():
        worst = group[0] if len(group) == 1 else _Row.worst_case(group)
        table += group if len(group) == 1 else [*group, worst]
        clean, robust = worst.record["clean_accuracy"], worst.record["robust_accuracy"]
        quick_look = is_quick_look([row.result for row in group], clean=clean, robust=robust)
        for row in {id(row): row for row in (*group, worst)}.values():
            row.record["quick_look"] = quick_look
        if not worst.result.cell.defenses:
            for row in group:
                unwrapped_model[row.counterparts(row.attack)].append(row)
            unwrapped_model[worst.counterparts(WORST_CASE)].append(worst)
    records = [row.record | _efficiency(row, unwrapped_model[row.counterparts(row.attack)]) for row in table]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def failed_rows(failures: Sequence[Failure]) -> pd.DataFrame:
    """What is known of cells that failed: one row each in the given order, with the columns that name a cell."""
    return pd.DataFrame.from_records([_words(each.cell, each.eps) for each in failures], columns=list(COLUMNS))


def missing_rows(asked: Sequence[RequestedCell]) -> pd.DataFrame:
    """What is known of cells that were asked for and are not there, in the same form."""
    records = [_words(each.cell, each.eps) | {"checkpoint": each.checkpoint} for each in asked]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def _words(cell: Cell, eps: str) -> dict[str, Any]:
    """The columns that name a cell."""
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "defense": cell.defense,
        "attack": cell.attack_label,
        "norm": cell.norm,
        "eps": eps,
        "targeted": cell.targeted,
        "eot": str(cell.eot),
        "n": cell.n,
        "repeats": cell.repeats,
        "seed": cell.seed,
        "cell": cell.id,
        "eps_value": cell.eps,
        "checkpoint_sha256": cell.checkpoint,
    }


def _numbers(values: Sequence[float] | None) -> str:
    """Numbers as ``--mean`` takes them; empty where there are none."""
    return ",".join(map(repr, values or ()))


class _Row:
    """A row in the making: its figures, what it stems from, and with which others it can be compared.

    Args:
        record: Its columns, but for the Defense Efficiency Score.
        result: The result that it stems from; the first of them for a worst case.
        read: Reads the outcomes.
        attack: Equal for rows of the same attack.
    """

    def __init__(self, record: dict[str, Any], result: Result, read: Callable[[], Outcomes], attack: Hashable) -> None:
        self.record = record
        self.result = result
        self.attack = attack
        self._read = read

    @property
    def _threat(self) -> Hashable:
        cell = self.result.cell
        return cell.data, cell.norm, cell.eps, cell.targeted, cell.seed

    @property
    def model_and_threat(self) -> Hashable:
        """Equal for the rows over which one worst case is taken."""
        cell = self.result.cell
        return cell.checkpoint, cell.repeats, cell.accounting, self._threat

    def counterparts(self, attack: Hashable) -> Hashable:
        """Equal for the rows of a model, however defended, that are compared with this one as a row of ``attack``."""
        return self.result.cell.model, attack, self._threat

    @cached_property
    def outcomes(self) -> Outcomes:
        """Of every image; read when they are first needed."""
        return self._read()

    @property
    def run(self) -> Run:
        """What its attack did."""
        return Run(self.result, self.outcomes)

    @classmethod
    def of(cls, result: Result, read: Callable[[], Outcomes]) -> _Row:
        cell = result.cell
        record = {
            **_words(cell, result.eps),
            "checkpoint": result.checkpoint,
            "mean": _numbers(result.mean),
            "std": _numbers(result.std),
            **result.summary,
            "flags": ";".join(result.flags),
            "forwards": result.forwards,
            "backwards": result.backwards,
            "seconds": result.seconds,
            "device": result.device,
        }
        return cls(record, result, read, (cell.cascade, json.dumps(cell.attack.identity, sort_keys=True)))

    @classmethod
    def worst_case(cls, group: Sequence[_Row]) -> _Row:
        """The row of the worst case over the attacks of one model and threat."""
        first = group[0]
        outcomes = worst_case([row.outcomes for row in group], nearest=first.result.cell.eps is None)
        cells = "".join(sorted(row.record["cell"] for row in group))
        flags = worst_case_flags([row.run for row in group], outcomes)
        record = first.record | {
            "attack": WORST_CASE,
            "eot": "",
            **summarize(outcomes),
            "flags": ";".join(flags),
            "cell": hashlib.sha256(cells.encode()).hexdigest()[:20],
        }
        for cost in ("forwards", "backwards", "seconds"):
            record[cost] = sum(row.record[cost] for row in group)
        return cls(record, first.result, lambda: outcomes, WORST_CASE)


def _efficiency(row: _Row, unwrapped_model: Sequence[_Row]) -> dict[str, Any]:
    """The columns of the Defense Efficiency Score; none without exactly one undefended model to compare with."""
    if not row.result.cell.defenses or len({base.result.cell.checkpoint for base in unwrapped_model}) != 1:
        return {}
    base, own = unwrapped_model[0].outcomes, row.outcomes
    score = defense_efficiency(
        undefended_success=base.success(),
        defended_success=own.success(),
        undefended_clean=base.clean_right.mean(axis=0),
        defended_clean=own.clean_right.mean(axis=0),
    )
    if score is None:
        return {}
    return {
        "des": score.score,
        "des_low": score.low,
        "des_high": score.high,
        "clean_accuracy_loss_within_interval": score.loss_within_interval,
    }

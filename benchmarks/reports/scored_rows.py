"""Reads the draws behind the rows of the table, for comparisons, protocols of randomized models, unions of norms and classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, most_votes
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.reports.columns import RowSource
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.reports.rows import Together, model_and_threat
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ScoredRow", "scored_rows"]


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A row of the table with what is behind it.

    Attributes:
        row: The row by column.
        cells: Its cell, or those that a worst case combines.
        clean: Whether the clean images are right, for each draw.
        robust: Whether the worst candidates are right, for each draw.
        clean_vote: ``(N,)``, whether the vote of all draws on the clean image is right.
        robust_vote: ``(N,)``, the same for the worst candidate.
        survival: ``(N,)``, how well the worst candidate is classified on other draws, which select; see :class:`~.outcomes.Outcomes`.
        labels: ``(N,)``, the classes.
        clean_answers: ``(R, N)``, the answers to the clean images.
        robust_answers: ``(R, N)``, the answers to the worst candidates.
    """

    row: Mapping[str, Any]
    cells: Sequence[Cell]
    clean: ScoredDraws
    robust: ScoredDraws
    clean_vote: NDArray[np.bool_]
    robust_vote: NDArray[np.bool_]
    survival: NDArray[np.float64]
    labels: NDArray[np.int64]
    clean_answers: NDArray[np.int64]
    robust_answers: NDArray[np.int64]


def scored_rows(
    table: pd.DataFrame, results: Sequence[Result], read: Callable[[Sequence[Result]], Together | None]
) -> list[ScoredRow]:
    """The rows of a table with their scored draws, in the table's order.

    Means over corruptions have no draws of their own, and are left out.

    Args:
        table: The rows that the user selects.
        results: All results of the stores.
        read: Reads the outcomes of some results; see :func:`~.rows.rows`.
    """
    rows = {str(row["cell"]): row for row in records(table)}
    groups: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for result in results:
        if not result.was_skipped:
            groups[model_and_threat(result.cell)].append(result)
    scored: dict[str, ScoredRow] = {}
    for group in groups.values():
        ids = {result.cell.id for result in group} | {_worst_case_id(group)}
        together = read(group) if ids & {*rows} else None
        if together is not None:
            scored.update(_scored(rows, *together))
    return [scored[cell] for cell in rows if cell in scored]


def _worst_case_id(group: Sequence[Result]) -> str:
    return RowSource(group[0].cell, group[0].eps, results=group).id


def _scored(
    rows: Mapping[str, Mapping[str, Any]], group: Sequence[Result], attacks: Outcomes
) -> Iterator[tuple[str, ScoredRow]]:
    """The scored rows of one model and threat that are among ``rows``, by their cells' hashes."""
    for number, result in enumerate(group):
        if result.cell.id in rows:
            yield result.cell.id, _scored_row(rows[result.cell.id], [result.cell], attacks.of_attack(number))
    worst = _worst_case_id(group)
    if len(group) > 1 and worst in rows:
        outcomes = attacks.worst_attack(nearest=group[0].cell.eps is None)
        yield worst, _scored_row(rows[worst], [result.cell for result in group], outcomes)


def _scored_row(row: Mapping[str, Any], cells: Sequence[Cell], outcomes: Outcomes) -> ScoredRow:
    labels, worst, shared = outcomes.labels, outcomes.worst(), bool(outcomes.draws_shared)
    return ScoredRow(
        row=row,
        cells=cells,
        clean=ScoredDraws(right=outcomes.clean_right, shared=shared),
        robust=ScoredDraws(right=outcomes.worst_right, shared=shared),
        clean_vote=most_votes(outcomes.clean, labels),
        robust_vote=most_votes(worst, labels),
        survival=outcomes.least_survival,
        labels=labels,
        clean_answers=outcomes.clean,
        robust_answers=worst,
    )

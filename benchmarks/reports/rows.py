"""Makes the rows of the table from stored results: one a cell, per-image worst cases, Defense Efficiency Scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property

import pandas as pd

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize, worst_case
from robustbench_cli.benchmarks.evaluation.statistics import SuccessCounts, defense_efficiencies
from robustbench_cli.benchmarks.reports import columns
from robustbench_cli.benchmarks.reports.columns import WORST_CASE, RowSource
from robustbench_cli.benchmarks.store.records import Failure, RequestedCell, Result
from robustbench_cli.benchmarks.store.worst_case_flags import Run, is_quick_look, worst_case_flags

__all__ = ["failed_rows", "missing_rows", "rows"]


def rows(results: Iterable[tuple[Result, Callable[[], Outcomes]]]) -> pd.DataFrame:
    """Makes the table of some finished cells.

    Args:
        results: Each result with a function that reads its outcomes. The function is called only for cells that are
            combined or compared with others.

    Returns:
        One row a cell in the given order, and the per-image worst case of a model and threat after its attacks. The
        columns are those of :data:`~.columns.COLUMNS`; a value that does not exist is missing (NaN). A cell whose
        condition did not hold has no row. ``eps`` is as the user wrote it. ``quick_look`` marks the rows of
        :func:`~.worst_case_flags.is_quick_look`, and a worst case has the flags of
        :func:`~.worst_case_flags.worst_case_flags`.
    """
    groups: dict[Hashable, list[tuple[_Row, Callable[[], Outcomes]]]] = defaultdict(list)
    for result, read in results:
        if not result.was_skipped:
            row = _Row.of(result, read)
            groups[row.model_and_threat].append((row, read))
    table: list[_Row] = []
    undefended: dict[Hashable, dict[str, _Row]] = defaultdict(dict)
    for members in groups.values():
        group = [row for row, _ in members]
        worst = group[0] if len(group) == 1 else _Row.worst_case(members)
        combined = group if len(group) == 1 else [*group, worst]
        table += combined
        _mark_quick_look(group, worst, combined)
        if not worst.result.cell.defenses:
            for row, attack in [*((row, row.attack) for row in group), (worst, WORST_CASE)]:
                undefended[row.comparison(attack)].setdefault(row.source.cell.checkpoint, row)
    _compare(table, undefended)
    return _table(row.source for row in table)


def failed_rows(failures: Sequence[Failure]) -> pd.DataFrame:
    """The rows of cells that failed: only the columns that describe a cell have values."""
    return _table(RowSource(failure.cell, failure.eps) for failure in failures)


def missing_rows(requested: Sequence[RequestedCell]) -> pd.DataFrame:
    """The rows of requested cells without a result: only the columns that describe a cell have values."""
    return _table(RowSource(entry.cell, entry.eps, entry.checkpoint) for entry in requested)


def _table(sources: Iterable[RowSource]) -> pd.DataFrame:
    """The table of rows, with all columns."""
    entries = [entry for entry in columns.COLUMNS if entry.value is not None]
    records = []
    for source in sources:
        values = {entry.name: entry.value(source) for entry in entries if entry.value is not None}
        # Pandas marks a column that a record lacks as missing, whatever the column holds.
        records.append({name: value for name, value in values.items() if value is not None})
    return pd.DataFrame.from_records(records, columns=[entry.name for entry in entries])


class _Row:
    """A row in the making: what it is made from, and the rows with which it can be compared.

    Args:
        source: What the columns are read from.
        attack: Equal for rows of the same attack.
        count: Counts the successes of its attack; called if the row is compared with another.
    """

    def __init__(self, source: RowSource, attack: Hashable, count: Callable[[], SuccessCounts]) -> None:
        self.source = source
        self.attack = attack
        self._count = count

    @property
    def result(self) -> Result:
        """The result; the first of them for a worst case."""
        return self.source.results[0]

    @property
    def _threat(self) -> Hashable:
        cell = self.source.cell
        return cell.data, cell.norm, cell.eps, cell.targeted, cell.seed

    @property
    def model_and_threat(self) -> Hashable:
        """Equal for the rows that one worst case combines."""
        cell = self.source.cell
        return cell.checkpoint, cell.repeats, cell.accounting, self._threat

    def comparison(self, attack: Hashable) -> Hashable:
        """Equal for the rows of one model with different defenses that are compared as rows of ``attack``."""
        return self.source.cell.model, attack, self._threat

    @cached_property
    def success(self) -> SuccessCounts:
        """The successes of its attack."""
        return self._count()

    @classmethod
    def of(cls, result: Result, read: Callable[[], Outcomes]) -> _Row:
        """The row of a cell."""
        source = RowSource(
            cell=result.cell,
            eps=result.eps,
            checkpoint=result.checkpoint,
            results=[result],
            summary=result.summary,
            flags=result.flags,
        )
        return cls(source, (result.cell.cascade, result.cell.attack.canonical_identity), lambda: read().success())

    @classmethod
    def worst_case(cls, group: Sequence[tuple[_Row, Callable[[], Outcomes]]]) -> _Row:
        """The row of the per-image worst case over the attacks of one model and threat, with what reads their outcomes."""
        first = group[0][0].source
        runs = []
        for row, read in group:
            outcomes = read()
            # The outcomes themselves would fill the memory.
            row.success = outcomes.success()
            runs.append(Run(row.result, outcomes))

        worst = worst_case([run.outcomes for run in runs], nearest=first.cell.eps is None)
        source = RowSource(
            cell=first.cell,
            eps=first.eps,
            checkpoint=first.checkpoint,
            results=[run.result for run in runs],
            summary=summarize(worst),
            flags=worst_case_flags(runs, worst),
        )
        success = worst.success()
        return cls(source, WORST_CASE, lambda: success)


def _mark_quick_look(group: Sequence[_Row], worst: _Row, combined: Sequence[_Row]) -> None:
    """Marks the rows of a model and threat whose attacks are too weak to vouch for them."""
    clean, robust = worst.source.summary["clean_accuracy"], worst.source.summary["robust_accuracy"]
    assert clean is not None
    assert robust is not None
    quick_look = is_quick_look([row.result for row in group], clean=clean, robust=robust)
    for row in combined:
        row.source.quick_look = quick_look


def _compare(table: Sequence[_Row], undefended: Mapping[Hashable, Mapping[str, _Row]]) -> None:
    """Adds the Defense Efficiency Score of each row that has exactly one undefended model to compare with.

    Args:
        table: The rows.
        undefended: By :meth:`_Row.comparison`, the row of each undefended model by its checkpoint.
    """
    pairs = []
    for row in table:
        bases = undefended.get(row.comparison(row.attack), {}) if row.source.cell.defenses else {}
        if len(bases) == 1:
            pairs.append((*bases.values(), row))
    scores = defense_efficiencies([(base.success, row.success) for base, row in pairs])
    for (_, row), score in zip(pairs, scores, strict=True):
        row.source.efficiency = score

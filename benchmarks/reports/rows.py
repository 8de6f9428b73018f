"""Makes the rows of the table from stored results: one a cell, per-image worst cases, Defense Efficiency Scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize
from robustbench_cli.benchmarks.evaluation.statistics.efficiency import SuccessCounts, defense_efficiencies
from robustbench_cli.benchmarks.reports import columns
from robustbench_cli.benchmarks.reports.columns import WORST_CASE, RowSource
from robustbench_cli.benchmarks.reports.corruption_means import typed, with_corruption_means
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Failure, RequestedCell, Result
from robustbench_cli.benchmarks.store.worst_case_flags import is_quick_look, worst_case_flags

__all__ = ["FlagsOfGroup", "failed_rows", "missing_rows", "model_and_threat", "planned_rows", "rows"]

Together = tuple[Sequence[Result], Outcomes]
"""Results, and the outcomes of their images, stacked."""

FlagsOfGroup = Callable[[Sequence[tuple[Sequence[Result], Outcomes, Outcomes]]], Sequence[str]]
"""From the rows of one model, data slice and norm to flags: for each threat its results, their outcomes, stacked, and the outcomes
of their worst case.
"""


def rows(
    results: Iterable[Result],
    read: Callable[[Sequence[Result]], Together | None],
    flags_of_group: FlagsOfGroup = lambda _: (),
) -> pd.DataFrame:
    """Makes the table of some finished cells.

    Args:
        results: The results.
        read: Reads the outcomes of some results on the same images, as :func:`~.store.together.read_together` does: it returns those
            results whose outcomes are intact. Others have no row. It is called once for each result.
        flags_of_group: Gives the flags of all rows of one model, data slice and norm, which come after each row's own; see
            :func:`robustbench_cli.benchmarks.audit.row_groups.flags_of_groups`.

    Returns:
        One row a cell in the given order, the per-image worst case of a model and threat after its attacks, and the mean
        over corruptions after the rows of a model; see :func:`~.corruption_means.with_corruption_means`. The
        columns are those of :data:`~.columns.COLUMNS`; a value that does not exist is missing (NaN). A cell whose
        condition did not hold has no row. ``eps`` is as the user wrote it. ``quick_look`` marks the rows of
        :func:`~.worst_case_flags.is_quick_look`, and a worst case has the flags of
        :func:`~.worst_case_flags.worst_case_flags`.
    """
    groups: dict[tuple[bool, Hashable], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.was_skipped, model_and_threat(result.cell)].append(result)
    by_norm: dict[Hashable, list[tuple[bool, Hashable]]] = defaultdict(list)
    for key, members in groups.items():
        by_norm[members[0].cell.checkpoint, members[0].cell.slice_and_norm].append(key)
    made: dict[tuple[bool, Hashable], tuple[list[_Row], _Row]] = {}
    for keys in by_norm.values():
        made |= _rows_of_norm({key: groups[key] for key in keys}, read, flags_of_group)
    table: list[_Row] = []
    undefended: dict[Hashable, dict[str, _Row]] = defaultdict(dict)
    for group, worst in (made[key] for key in groups if key in made):
        table += group if len(group) == 1 else [*group, worst]
        if not worst.source.cell.defenses:
            for row, attack in [*((row, row.attack) for row in group), (worst, WORST_CASE)]:
                undefended[row.comparison(attack)].setdefault(row.source.cell.checkpoint, row)
    _compare(table, undefended)
    return with_corruption_means(_table([row.source for row in table]))


def failed_rows(failures: Sequence[Failure]) -> pd.DataFrame:
    """The rows of cells that failed: only the columns that describe a cell have values."""
    return _table([RowSource(failure.cell, failure.eps) for failure in failures])


def missing_rows(requested: Sequence[RequestedCell]) -> pd.DataFrame:
    """The rows of requested cells without a result: only the columns that describe a cell have values."""
    return _table([RowSource(entry.cell, entry.eps, entry.checkpoint) for entry in requested])


def planned_rows(requested: Sequence[RequestedCell]) -> pd.DataFrame:
    """The rows that cells will have, as :func:`missing_rows`, and those of their worst cases.

    Args:
        requested: The cells; one whose condition does not hold will have no row.
    """
    table = missing_rows(requested)
    combined: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, entry in enumerate(requested):
        combined[model_and_threat(entry.cell)].append(number)
    first = [numbers[0] for numbers in combined.values() if len(numbers) > 1]
    return pd.concat([table, table.loc[first].assign(attack=WORST_CASE)], ignore_index=True)


def _table(sources: Sequence[RowSource]) -> pd.DataFrame:
    """The table of rows, with all columns."""
    names, values = zip(*((entry.name, entry.value) for entry in columns.COLUMNS if entry.value), strict=True)
    # Row by row: what a row is made from is in the processor's cache then.
    rows = [[math.nan if (content := value(source)) is None else content for value in values] for source in sources]
    by_column = zip(*rows, strict=True) if rows else [()] * len(names)
    return typed(pd.DataFrame(dict(zip(names, by_column, strict=True))))


def _threat(cell: Cell) -> Hashable:
    return cell.slice_and_norm, cell.eps, cell.targeted, cell.seed


def model_and_threat(cell: Cell) -> Hashable:
    """Equal for the cells that one worst case combines."""
    return cell.checkpoint, cell.repeats, cell.accounting, _threat(cell)


@dataclass(frozen=True)
class _Row:
    """A row in the making.

    Attributes:
        source: What the columns are read from.
        attack: Equal for rows of the same attack.
        success: The successes of its attack.
    """

    source: RowSource
    attack: Hashable
    success: SuccessCounts

    def comparison(self, attack: Hashable) -> Hashable:
        """Equal for the rows of one model with different defenses that are compared as rows of ``attack``."""
        return self.source.cell.model, attack, _threat(self.source.cell)


def _rows_of_norm(
    groups: Mapping[tuple[bool, Hashable], Sequence[Result]],
    read: Callable[[Sequence[Result]], Together | None],
    flags_of_group: FlagsOfGroup,
) -> dict[tuple[bool, Hashable], tuple[list[_Row], _Row]]:
    """The rows of one model, data slice and norm, whose outcomes are in memory at once.

    Args:
        groups: The results of each threat, by whether they were skipped.
        read: See :func:`rows`.
        flags_of_group: See :func:`rows`.

    Returns:
        For each threat what :func:`_rows_of` returns, with the flags of the group.
    """
    made: dict[tuple[bool, Hashable], tuple[list[_Row], _Row]] = {}
    threats = []
    for (was_skipped, threat), members in groups.items():
        # The outcomes of skipped cells are read too, for a damaged file has its message.
        together = read(members)
        if together is not None and not was_skipped:
            intact, attacks = together
            worst = attacks.worst_attack(nearest=intact[0].cell.eps is None)
            made[was_skipped, threat] = _rows_of(intact, attacks, worst)
            threats.append((intact, attacks, worst))
    flags = flags_of_group(threats) if threats else ()
    for source in {id(row.source): row.source for group, worst in made.values() for row in (*group, worst)}.values():
        source.flags = tuple(dict.fromkeys((*source.flags, *flags)))
    return made


def _rows_of(results: Sequence[Result], attacks: Outcomes, worst_outcomes: Outcomes) -> tuple[list[_Row], _Row]:
    """The rows of the attacks on one model and threat, and the row of their per-image worst case.

    Args:
        results: The results of the attacks. The worst case of a single one is its own row.
        attacks: Their outcomes, stacked.
        worst_outcomes: The outcomes of their worst case.
    """
    rows = []
    for result, success in zip(results, attacks.success().of_each(), strict=True):
        source = RowSource(
            cell=result.cell,
            eps=result.eps,
            checkpoint=result.origin.named_checkpoint(result.checkpoint),
            results=[result],
            summary=result.summary,
            flags=result.flags,
        )
        rows.append(_Row(source, (result.cell.cascade, result.cell.attack.canonical_identity), success))
    worst = rows[0] if len(rows) == 1 else _worst_case(results, attacks, worst_outcomes)
    summary = worst.source.summary
    clean, robust = summary["clean_accuracy"], summary["robust_accuracy"]
    assert clean is not None
    assert robust is not None
    quick_look = is_quick_look(results, clean=clean, robust=robust)
    for row in (*rows, worst):
        row.source.quick_look = quick_look
    return rows, worst


def _worst_case(results: Sequence[Result], attacks: Outcomes, worst: Outcomes) -> _Row:
    """The row of the per-image worst case over several attacks; the arguments are those of :func:`_rows_of`."""
    first = results[0]
    source = RowSource(
        cell=first.cell,
        eps=first.eps,
        checkpoint=first.origin.named_checkpoint(first.checkpoint),
        results=results,
        summary=summarize(worst),
        flags=worst_case_flags(results, attacks, worst),
    )
    return _Row(source, WORST_CASE, worst.success())


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

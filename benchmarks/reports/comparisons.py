"""Compares rows on the same images: pairs of rows, their tests with Holm's correction, and the table of these."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.evaluation.statistics.paired import PairedComparison, compare_paired, holm
from robustbench_cli.benchmarks.reports.columns import WORST_CASE, column_names, flag_names, threat_text
from robustbench_cli.benchmarks.reports.compared_columns import COMPARED, is_hash
from robustbench_cli.benchmarks.reports.gates import parse_conditions, select, unmet
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ComparedRows", "comparisons_table", "parse_comparison", "readable_comparisons"]

_PROTOCOL: Mapping[str, Callable[[ScoredRow], Any]] = {
    "images": lambda row: (row.cells[0].scored_images, row.row["corruption"], row.row["severity"]),
    "norm": lambda row: row.cells[0].norm,
    "eps": lambda row: row.cells[0].eps,
    "targeted": lambda row: row.cells[0].targeted,
    "accounting": lambda row: row.cells[0].accounting,
}
"""What compared rows must have in common."""

_OPTION = "--compare"


@dataclass(frozen=True)
class ComparedRows:
    """What ``--compare`` asks for.

    Attributes:
        texts: What the user wrote: one column, or two selections of rows.
        selections: The values allowed for each column, of either side; empty for a column.
    """

    texts: tuple[str, ...]
    selections: tuple[Mapping[str, Sequence[str]], ...] = ()

    @property
    def varied(self) -> set[str]:
        """The columns in which the two rows of a pair may differ."""
        named = {name for selection in self.selections for name in selection} or {*self.texts}
        return {*COMPARED} if "cell" in named else named


def parse_comparison(text: str, other: str | None = None) -> ComparedRows:
    """Reads ``--compare`` and ``--with``.

    Args:
        text: A column of :data:`COMPARED`; or a row: ``KEY=VALUE``, several joined by commas, or a cell's hash.
        other: The other row; ``None`` beside a column.

    Raises:
        UserError: They are something else.
    """
    if text in COMPARED:
        if other is not None:
            raise UserError(f"--with {other}: {_OPTION} {text} compares all pairs of rows: leave --with out")
        return ComparedRows((text,))
    if re.fullmatch(r"\w+", text) and not is_hash(text):
        raise UserError(f"{_OPTION} '{text}': {did_you_mean(text, COMPARED)}")
    if other is None:
        raise UserError(
            f"{_OPTION} {text}: give the other row too, as in --with defense=hrs; or a column, such as defense, for all pairs"
        )
    return ComparedRows((text, other), (_selection(text), _selection(other)))


def _selection(text: str) -> Mapping[str, Sequence[str]]:
    """The values allowed for each column by one side of a comparison."""
    if is_hash(text):
        return {"cell": [text]}
    # A comma inside the brackets of a label is no end of a condition.
    names = "|".join(map(re.escape, column_names()))
    return parse_conditions(re.split(rf",(?=(?:{names})=)(?![^()]*\))", text), option=_OPTION)


def comparisons_table(compared: ComparedRows, rows: Sequence[ScoredRow]) -> pd.DataFrame:
    """Compares pairs of rows; see :func:`~.paired.compare_paired`.

    Args:
        compared: What the user asks for.
        rows: The rows that the user selects, with their scored draws.

    Returns:
        One row per pair. ``a`` and ``b`` name what differs, ``difference`` is the robust accuracy of ``a`` minus that of ``b``,
        ``p_holm`` is corrected for all pairs of the table, and ``differ`` says whether it is below 5 %.

    Raises:
        UserError: A selection fits no row, or no two rows have the same images, radius and protocol.
    """
    import pandas as pd

    pairs = list(_pairs(compared, rows))
    tests = [compare_paired(first.robust, second.robust) for first, second in pairs]
    corrected = holm([test.p_value for test in tests])
    names = _names(pairs)
    lines = [
        _line(first, second, test, p_holm) | dict(zip("ab", named, strict=True))
        for (first, second), named, test, p_holm in zip(pairs, names, tests, corrected, strict=True)
    ]
    # As objects, whole numbers stay whole where others are missing.
    return pd.DataFrame(lines, dtype=object)


def _pairs(compared: ComparedRows, rows: Sequence[ScoredRow]) -> Iterator[tuple[ScoredRow, ScoredRow]]:
    """The pairs of rows to compare."""
    if not rows:
        raise UserError(f"{_OPTION}: there is no row to compare")
    if compared.selections:
        sides = [_selected(selection, rows) for selection in compared.selections]
        candidates = [(first, second) for first, second in itertools.product(*sides) if first is not second]
    else:
        (name,) = compared.texts
        candidates = [pair for pair in itertools.combinations(rows, 2) if pair[0].row[name] != pair[1].row[name]]
        if not candidates:
            raise UserError(
                f"{_OPTION} {name}: all rows have the {name} '{rows[0].row[name]}': there is no pair to compare"
            )
    differences = [_difference(first, second, compared.varied) for first, second in candidates]
    pairs = [pair for pair, difference in zip(candidates, differences, strict=True) if difference is None]
    if not pairs:
        reason = differences[0] if differences else "both select the same row"
        raise UserError(f"{_OPTION} {' --with '.join(compared.texts)}: no two rows can be compared: {reason}")
    seen: set[frozenset[str]] = set()
    for first, second in pairs:
        ends = frozenset((first.row["cell"], second.row["cell"]))
        if ends not in seen:
            seen.add(ends)
            yield first, second


def _selected(selection: Mapping[str, Sequence[str]], rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows that one side of a comparison selects.

    Raises:
        UserError: There are none.
    """
    import pandas as pd

    table = pd.DataFrame([row.row for row in rows])
    if "cell" in selection:
        (start,) = selection["cell"]
        fitting = [row for row in rows if str(row.row["cell"]).startswith(start)]
    else:
        fitting = [rows[index] for index in select(table, selection).index]
    if not fitting:
        raise UserError(unmet([table], selection, option=_OPTION)[0])
    return fitting


def _difference(first: ScoredRow, second: ScoredRow, varied: set[str]) -> str | None:
    """In what two rows differ that must be the same; ``None`` where they can be compared."""
    for name, value in _PROTOCOL.items():
        if value(first) != value(second):
            return "the images differ" if name == "images" else f"{name} is {first.row[name]} and {second.row[name]}"
    # Another defense is another checkpoint, and its attacks take other draws.
    for name in {"defense", "model", "attack", "seed"} - varied:
        if first.row[name] != second.row[name]:
            return f"{name} is {first.row[name]} and {second.row[name]}"
    same_model = first.cells[0].checkpoint == second.cells[0].checkpoint
    if not (same_model or varied & {"defense", "model", "checkpoint", "seed"}):
        return "the checkpoints differ"
    if not same_model and first.row["attack"] != second.row["attack"]:
        return f"two models under different attacks, {first.row['attack']} and {second.row['attack']}"
    return None


def _line(first: ScoredRow, second: ScoredRow, test: PairedComparison, p_holm: float) -> dict[str, Any]:
    """A row of the table of comparisons."""
    rows = first.row, second.row
    return {
        **{name: rows[0][name] if rows[0][name] == rows[1][name] else None for name in _SHARED},
        "a": None,
        "b": None,
        **{f"{side}_robust_accuracy": row["robust_accuracy"] for side, row in zip("ab", rows, strict=True)},
        "difference": test.difference,
        "difference_low": test.low,
        "difference_high": test.high,
        "a_only": test.first_only,
        "b_only": test.second_only,
        "test": test.test,
        "p_value": test.p_value,
        "p_holm": p_holm,
        "differ": p_holm <= 0.05,
        **{f"{side}_repeats": row["repeats"] for side, row in zip("ab", rows, strict=True)},
        **{f"{side}_attacks": ";".join(_attacks(row)) for side, row in zip("ab", (first, second), strict=True)},
        **{f"{side}_flags": row["flags"] for side, row in zip("ab", rows, strict=True)},
        **{f"{side}_cell": row["cell"] for side, row in zip("ab", rows, strict=True)},
    }


def _attacks(row: ScoredRow) -> list[str]:
    """The attacks behind a row."""
    return [cell.attack_label for cell in row.cells]


def _names(pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> list[list[str]]:
    """What tells the two rows of each pair apart, with the draws and the cell where several pairs have the same names."""
    labels = []
    for first, second in pairs:
        differing = [name for name in ("model", "defense", "attack", "seed") if first.row[name] != second.row[name]]
        differing = differing or [name for name in ("checkpoint", "eot") if first.row[name] != second.row[name]]
        labels.append([" ".join(str(row.row[name]) for name in differing) for row in (first, second)])
    for further in ("eot", "cell"):
        keys = [
            (*names, *(str(row.row[name]) for row in pair for name in _SHARED))
            for names, pair in zip(labels, pairs, strict=True)
        ]
        for names, pair, count in zip(labels, pairs, [keys.count(key) for key in keys], strict=True):
            if count > 1 or names[0] == names[1]:
                names[:] = [
                    f"{name} {further} {str(row.row[further])[:8]}".strip()
                    for name, row in zip(names, pair, strict=True)
                ]
    return labels


_SHARED = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "corruption", "severity", "n", "seed")
"""The columns that a table of comparisons has where both rows agree in them."""

_SHOWN = ("dataset", "model", "defense", "attack", "threat", "corruption", "severity", "seed", "n")
"""The columns before the two names where they differ among the pairs, and above the table where they do not."""


def readable_comparisons(table: pd.DataFrame) -> ReadableTable:
    """A table of comparisons for people.

    Args:
        table: See :func:`comparisons_table`.
    """
    rows = [row | {"threat": threat_text(row)} for row in records(table)]
    shown = [name for name in _SHOWN if len({str(row[name]) for row in rows}) > 1]
    headers = [*shown, "a", "b", "robust a", "robust b", "a - b", "only a", "only b", "p", "p (Holm)", ""]
    lines = [
        [
            *("-" if row[name] is None else str(row[name]) for name in shown),
            *(row["a"], row["b"]),
            *(f"{100 * row[f'{side}_robust_accuracy']:.1f}" for side in "ab"),
            f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:.1f},{100 * row['difference_high']:.1f}]",
            *(f"{row[name]:.4g}" for name in ("a_only", "b_only")),
            *(_p_value(row[name]) for name in ("p_value", "p_holm")),
            "differ" if row["differ"] else "",
        ]
        for row in rows
    ]
    alike = [(name, rows[0][name]) for name in _SHOWN if name not in shown and rows[0][name] is not None]
    return ReadableTable(
        headers=headers,
        numeric=[header in {"robust a", "robust b", "only a", "only b", "p", "p (Holm)"} for header in headers],
        lines=lines,
        hideable=("only a", "only b", "p"),
        title=", ".join(f"{name} {value}" for name, value in alike),
        caption=list(_caption(rows)),
    )


def _p_value(value: float) -> str:
    """A p-value to two digits; the smallest are not known to more."""
    return "<1e-9" if value < 1e-9 else f"{value:.2g}" if value < 1e-3 else f"{value:.3f}"


def _caption(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines below a table of comparisons."""
    tests = {
        "mcnemar": "p of deterministic models: exact McNemar test of the images that only one of the two gets right",
        "sign-flip": "p of randomized models: exact sign-flip test of the images' differences in the share of right draws",
        "two-level": "p of models whose draws all images of a pass share: the passes count as a sample, as the images do",
        "none": "p is 1 where all images share the only draw, which tells nothing: give more --repeats",
    }
    yield from (text for name, text in tests.items() if any(row["test"] == name for row in rows))
    pairs = "the pair" if len(rows) == 1 else f"all {len(rows)} pairs"
    yield "robust a, robust b: robust accuracies in percent; a - b: their difference in points, with its 95 % confidence interval"
    yield "only a, only b: images that only one of the two gets right; of randomized models the sum of its leads in shares of draws"
    yield "p: the probability of a difference at least as large if both are equally robust"
    yield f"p (Holm): p corrected for {pairs} of this table; 'differ' marks pairs with p (Holm) of at most 5 %"
    if any(row["attack"] == WORST_CASE and row["a_attacks"] != row["b_attacks"] for row in rows):
        yield "worst cases over different attacks are compared: see a_attacks and b_attacks in --format csv"
    flagged = sorted({flag for row in rows for side in "ab" for flag in flag_names(row[f"{side}_flags"])})
    if flagged:
        yield f"flagged rows are among them ({', '.join(flagged)}): their robust accuracy may be overstated, and so a difference"

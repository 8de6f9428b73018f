"""Recall and precision of each class under each row, from the stored answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED
from robustbench_cli.benchmarks.evaluation.statistics.classes import ClassFigures, class_figures
from robustbench_cli.benchmarks.reports.columns import threat_text
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records, share_text
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["classes_table", "readable_classes"]

_ROW = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed")
"""The columns that name the row whose classes these are."""

_SHOWN = ("dataset", "model", "defense", "attack", "threat", "seed")
"""The columns of a row that a terminal shows: above the table where all rows share them."""

_SPECIAL = {REJECTED: "rejected", NO_NUMBER: "no number"}
"""The answers that are no class."""


def classes_table(rows: Sequence[ScoredRow]) -> pd.DataFrame:
    """Recall and precision of each class, clean and under attack; see :func:`~.statistics.classes.class_figures`.

    Args:
        rows: The rows that the user selects, with their answers.

    Returns:
        A row for each class of each row.

    Raises:
        UserError: There are no rows.
    """
    import pandas as pd

    if not rows:
        raise UserError("--by-class: there are no rows with stored answers: 'advdef attack' makes some")
    return pd.DataFrame([line for row in rows for line in _lines(row)], dtype=object)


def _lines(row: ScoredRow) -> Iterator[dict[str, Any]]:
    """A row for each class."""
    shared = row.robust.shared
    clean = class_figures(row.labels, row.clean_answers, shared=shared)
    robust = class_figures(row.labels, row.robust_answers, shared=shared)
    for of_clean, of_robust in zip(clean, robust, strict=True):
        yield {
            **{name: row.row[name] for name in _ROW},
            "class": of_robust.label,
            "images": of_robust.images,
            **_shares("clean", of_clean),
            **_shares("robust", of_robust),
            "confused_with": of_robust.confused_with,
            "confused": of_robust.confused,
            "cell": row.row["cell"],
        }


def _shares(kind: str, figures: ClassFigures) -> dict[str, float | None]:
    """The shares of a class with their intervals, by column."""
    return {
        f"{kind}_{name}{end}": value
        for name, share in (("recall", figures.recall), ("precision", figures.precision))
        for end, value in zip(("", "_low", "_high"), share or (None, None, None), strict=True)
    }


def readable_classes(table: pd.DataFrame) -> ReadableTable:
    """A table of classes for people.

    Args:
        table: See :func:`classes_table`.
    """
    rows = [row | {"threat": threat_text(row)} for row in records(table)]
    shown = [name for name in _SHOWN if len({str(row[name]) for row in rows}) > 1]
    figures = ("clean recall", "robust recall", "clean precision", "robust precision")
    headers = [*shown, "class", "images", *figures, "taken for"]
    lines = [
        [
            *(str(row[name]) for name in shown),
            str(row["class"]),
            str(row["images"]),
            *(_share(row, name.replace(" ", "_")) for name in figures),
            _confusion(row),
        ]
        for row in rows
    ]
    return ReadableTable(
        headers=headers,
        numeric=[header in {"seed", "images", *figures} for header in headers],
        lines=lines,
        hideable=["clean precision", "clean recall", "images"],
        title=", ".join(f"{name} {rows[0][name]}" for name in _SHOWN if name not in shown),
        caption=[
            "recall: share of the images of the class that get it as their answer",
            "precision: share of the answers with the class that are right; low where the model answers it too often",
            "taken for: the most frequent wrong answer under attack, and the share of the class's images that get it",
        ],
        sections=[row["cell"] for row in rows],
    )


def _share(row: dict[str, Any], name: str) -> str:
    """A share in percent, with its interval under attack."""
    if row[name] is None:
        return "-"
    return share_text(row, name) if name.startswith("robust") else f"{100 * row[name]:.1f}"


def _confusion(row: dict[str, Any]) -> str:
    """The most frequent wrong answer, and the share of the images that get it, in percent."""
    other = row["confused_with"]
    return "-" if other is None else f"{_SPECIAL.get(other, other)} {100 * row['confused']:.1f}"

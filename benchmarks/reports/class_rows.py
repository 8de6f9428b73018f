"""Recall and precision of each class under each row, from the stored answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED
from robustbench_cli.benchmarks.evaluation.statistics.classes import ClassFigures, class_figures
from robustbench_cli.benchmarks.reports.columns import threat_text
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["classes_table", "readable_classes"]

_ROW = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed")
"""The columns that say which row a group is of."""

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
    """The rows of one group."""
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
    headers = [*shown, "class", "images", "clean recall", "robust recall", "clean precision", "robust precision"]
    lines = [
        [
            *(str(row[name]) for name in shown),
            str(row["class"]),
            str(row["images"]),
            *(
                _share(row, f"{kind}_{name}", interval=kind == "robust")
                for name in ("recall", "precision")
                for kind in ("clean", "robust")
            ),
            _confusion(row),
        ]
        for row in rows
    ]
    return ReadableTable(
        headers=[*headers, "taken for"],
        numeric=[header in {"seed", "images"} or header.endswith(("recall", "precision")) for header in headers]
        + [False],
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


def _share(row: dict[str, Any], name: str, *, interval: bool) -> str:
    """A share in percent with its interval, rounded outwards."""
    value = row[name]
    if value is None:
        return "-"
    if not interval:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{math.floor(100 * row[f'{name}_low'])},{math.ceil(100 * row[f'{name}_high'])}]"


def _confusion(row: dict[str, Any]) -> str:
    other = row["confused_with"]
    return "-" if other is None else f"{_SPECIAL.get(other, other)} {100 * row['confused']:.1f}"

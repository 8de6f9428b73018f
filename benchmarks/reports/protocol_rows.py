"""The accuracies of each row under the protocols for randomized models, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.evaluation.statistics.protocols import PROTOCOLS, draw_variance, protocols
from robustbench_cli.benchmarks.reports.columns import threat_text
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records, share_text
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["protocols_table", "readable_protocols"]

_ROW = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed")
"""The columns that say which row a group is of."""

_ON_CURVE = (2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The numbers of submissions that a terminal shows. One is the expectation, and the number of draws is every draw."""

_SHOWN = ("dataset", "model", "defense", "attack", "threat", "n", "repeats", "seed")
"""The columns of a row that a terminal shows: above the table where all rows share them."""


def protocols_table(rows: Sequence[ScoredRow]) -> pd.DataFrame:
    """The accuracies under all protocols; see :func:`~.statistics.protocols.protocols`.

    Args:
        rows: The rows that the user selects, with their scored draws.

    Returns:
        A row for each protocol and number of submissions ``k`` of each randomized row. ``draw_variance`` is the share of the
        answers' variance that comes from the draws, which ``advdef sample-size`` asks for.

    Raises:
        UserError: No row is of a randomized model.
    """
    import pandas as pd

    randomized = [row for row in rows if len(row.robust.right) > 1]
    if not randomized:
        raise UserError(
            "--protocols: no row has several draws: a deterministic model has one accuracy under every protocol (give --repeats "
            "for a randomized one)"
        )
    return pd.DataFrame([line for row in randomized for line in _lines(row)], dtype=object)


def _lines(row: ScoredRow) -> Iterator[dict[str, Any]]:
    """The rows of one group."""
    variance = draw_variance(row.robust)
    clean, robust = protocols(row.clean, row.clean_vote), protocols(row.robust, row.robust_vote)
    for of_clean, of_robust in zip(clean, robust, strict=True):
        yield {
            **{name: row.row[name] for name in _ROW},
            "protocol": of_robust.name,
            "k": of_robust.k,
            **{
                f"{kind}_accuracy{end}": value
                for kind, entry in (("clean", of_clean), ("robust", of_robust))
                for end, value in (("", entry.accuracy), ("_low", entry.low), ("_high", entry.high))
            },
            "draw_variance": None if math.isnan(variance) else variance,
            "meaning": PROTOCOLS[of_robust.name].text,
            "cell": row.row["cell"],
        }


def readable_protocols(table: pd.DataFrame) -> ReadableTable:
    """A table of protocols for people.

    Args:
        table: See :func:`protocols_table`.
    """
    rows = [
        row | {"threat": threat_text(row)}
        for row in records(table)
        if row["k"] is None or (row["k"] in _ON_CURVE and row["k"] < row["repeats"])
    ]
    shown = [name for name in _SHOWN if len({str(row[name]) for row in rows}) > 1]
    title = ", ".join(f"{name} {rows[0][name]}" for name in _SHOWN if name not in shown)
    lines = [
        [
            *(str(row[name]) for name in shown),
            row["protocol"] if row["k"] is None else f"best of {row['k']}",
            *(share_text(row, f"{kind}_accuracy") for kind in ("clean", "robust")),
        ]
        for row in rows
    ]
    headers = [*shown, "protocol", "clean", "robust"]
    return ReadableTable(
        headers=headers,
        numeric=[header in {"n", "repeats", "seed", "clean", "robust"} for header in headers],
        lines=lines,
        title=title,
        caption=[f"{name}: {meaning.text} ({meaning.source})" for name, meaning in PROTOCOLS.items()],
        sections=[row["cell"] for row in rows],
    )

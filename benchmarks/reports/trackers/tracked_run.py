"""What a tracker gets: one run for each model of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.columns import Record, flag_names
from robustbench_cli.benchmarks.reports.formats import as_text
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.store.cell import content_hash
from robustbench_cli.core.escaping import escaped_for_terminal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STEPS_PER_UNIT", "Point", "TrackedRun", "tracked_runs"]

STEPS_PER_UNIT = 10_000
"""The step of a radius is its multiple, since steps are whole numbers: 8/255 is step 314."""

_MODEL = ("dataset", "model", "defense", "checkpoint", "checkpoint_sha256")

_MEASURED = (
    "robust_accuracy",
    "robust_accuracy_low",
    "robust_accuracy_high",
    "attack_success_rate",
    "clean_accuracy",
)

_LONGEST = 200
"""The largest number of characters of a name; MLflow takes 250."""


@dataclass(frozen=True)
class Point:
    """A figure at a radius.

    Attributes:
        metric: The column, the norm, the attack and what else tells its rows apart, with slashes between them. It has no
            character that a tracker refuses.
        eps: The radius.
        value: The figure.
    """

    metric: str
    eps: float
    value: float

    @property
    def step(self) -> int:
        """The radius as a whole number; see :data:`STEPS_PER_UNIT`."""
        return round(self.eps * STEPS_PER_UNIT)


@dataclass(frozen=True)
class TrackedRun:
    """The results of one model.

    Attributes:
        id: The content hash of the model and its rows: equal results are the same run.
        name: The data set, the model and the defense, in one line.
        settings: What the model is, by column.
        points: The figures against the radius. Rows without a radius have none, and are in the table alone.
        flags: The flags of all rows.
        table: The rows as CSV.
        markdown: The rows as Markdown.
    """

    id: str
    name: str
    settings: dict[str, str]
    points: Sequence[Point]
    flags: Sequence[str]
    table: str
    markdown: str

    @property
    def label(self) -> str:
        """The name and the identity as the name of a folder."""
        return f"{_word(self.name)[:60]}-{self.id}"


def tracked_runs(table: pd.DataFrame) -> list[TrackedRun]:
    """The runs of a table, one for each model in the order of the rows.

    Args:
        table: The rows, with the columns of :data:`~robustbench_cli.benchmarks.reports.columns.COLUMNS`.
    """
    grouped = table.groupby(list(_MODEL), dropna=False, sort=False)
    return [_run(rows) for _, rows in grouped]


def _run(table: pd.DataFrame) -> TrackedRun:
    rows = records(table)
    settings = {name: _line(rows[0][name]) for name in _MODEL}
    text = as_text(table, "csv")
    flags = dict.fromkeys(flag for row in rows for flag in flag_names(row["flags"]))
    return TrackedRun(
        id=content_hash({"settings": settings, "rows": text}),
        name=", ".join(settings[name] for name in ("dataset", "model", "defense"))[:_LONGEST],
        settings=settings,
        points=list(_points(rows)),
        flags=[_line(flag) for flag in flags],
        table=text,
        markdown=as_text(table, "markdown"),
    )


def _points(rows: Sequence[Record]) -> Iterator[Point]:
    taken: set[tuple[str, int]] = set()
    for row in rows:
        if row["eps_value"] is None:
            continue
        series = _series(row)
        if (series, Point(series, row["eps_value"], 0).step) in taken:
            series += f"/{_word(row['cell'])}"
        for column in _MEASURED:
            if row[column] is not None:
                yield Point(f"{column}/{series}", row["eps_value"], row[column])
        taken.add((series, Point(series, row["eps_value"], 0).step))


def _series(row: Record) -> str:
    """What tells the rows of a model at one radius apart."""
    corruption = None if row["corruption"] is None else f"{row['corruption']}-{row['severity']}"
    parts = [
        row["norm"],
        row["attack"],
        None if row["eot"] in {None, "", "1"} else f"eot-{row['eot']}",
        None if row["targeted"] == "no" else f"targeted-{row['targeted']}",
        corruption,
        f"seed-{row['seed']}" if row["seed"] else None,
    ]
    return "/".join(_word(part) for part in parts if part is not None)[:_LONGEST]


def _word(text: Any) -> str:
    """A text with only the characters that every tracker and every file system takes."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", str(text)).strip("_") or "_"


def _line(text: Any) -> str:
    return escaped_for_terminal("" if text is None else str(text))[:_LONGEST]

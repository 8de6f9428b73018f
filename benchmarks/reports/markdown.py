"""Tables in Markdown, and the table of results as a comment for a pull request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports.best_values import BEST, best_values
from robustbench_cli.benchmarks.reports.columns import shared_values
from robustbench_cli.benchmarks.reports.legend import flag_texts, notes, raised_flags
from robustbench_cli.benchmarks.reports.readable import readable
from robustbench_cli.core.escaping import escaped_for_markdown, shortened

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GateMark", "markdown_report", "markdown_table"]

GateMark = tuple[bool | None, str]
"""A gate's outcome, ``None`` where it could not be judged, and its text."""

_MARKS = {True: "✓", False: "✗", None: "?"}


def markdown_table(
    headers: Sequence[str],
    numeric: Sequence[bool],
    lines: Iterable[Sequence[str]],
    bold: Sequence[Collection[int]] | None = None,
) -> str:
    """A table in Markdown.

    Args:
        headers: The headers.
        numeric: Whether each column is right-justified.
        lines: The texts of the rows, not yet escaped.
        bold: For each row the positions of its bold texts.
    """
    rule = ["--:" if is_numeric else ":--" for is_numeric in numeric]
    cells = [[escaped_for_markdown(text) for text in line] for line in lines]
    for line, positions in zip(cells, bold or (), strict=bold is not None):
        for position in positions:
            line[position] = f"**{line[position]}**"
    return "".join(f"| {' | '.join(line)} |\n" for line in (headers, rule, *cells))


def markdown_report(
    table: pd.DataFrame, columns: Sequence[str] | None = None, *, gates: Sequence[GateMark] = ()
) -> str:
    """The table of results with a heading, its gates and the meaning of its flags, as a comment for a pull request.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        columns: The names of the columns; by default those that the table has for people.
        gates: The outcomes of gates.
    """
    shared = ", ".join(
        f"{name} {shortened(str(value))}" for name, value in shared_values(table) if name not in (columns or ())
    )
    heading = f"### Adversarial robustness{f': {escaped_for_markdown(shared)}' if shared else ''}\n"
    marks = "".join(f"- {_MARKS[passed]} {escaped_for_markdown(text)}\n" for passed, text in gates)
    if table.empty:
        return "\n".join(part for part in (heading, marks, "No rows.\n") if part)
    shown, lines = readable(table, names=columns)
    best = best_values(table, shown)
    content = markdown_table(
        [entry.shown.header for entry in shown if entry.shown is not None],
        [entry.is_numeric for entry in shown],
        lines,
        [[index for index, entry in enumerate(shown) if entry.name in names] for names in best],
    )
    texts = dict.fromkeys(raised_flags(table), "an unknown flag") | flag_texts(raised_flags(table))
    legend = [f"{escaped_for_markdown(shortened(flag))}: {escaped_for_markdown(text)}" for flag, text in texts.items()]
    legend += map(escaped_for_markdown, notes(table, columns))
    if any(best):
        legend.append(f"**bold**: {BEST}")
    return "\n".join(part for part in (heading, marks, content, "".join(f"- {line}\n" for line in legend)) if part)

r"""The table of results in LaTeX, for ``\input`` in a paper: booktabs, best values bold, confidence intervals small."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports.best_values import BEST, best_values
from robustbench_cli.benchmarks.reports.columns import Column, shared_values
from robustbench_cli.benchmarks.reports.legend import flag_marks, flag_texts, notes
from robustbench_cli.benchmarks.reports.readable import FLAG_NAMES, readable, sections
from robustbench_cli.core.escaping import escaped_for_latex, shortened

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["latex_table"]


def latex_table(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    r"""The table of results as a ``tabular`` and, in small print below it, the meaning of its signs.

    It needs the package booktabs. Flags are letters, which the small print explains. A space separates defenses.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        columns: The names of the columns; by default those that the table has for people.
    """
    if table.empty:
        return "% no rows\n"
    shown, lines = readable(table, {FLAG_NAMES}, names=columns)
    best = best_values(table, shown)
    kinds = "".join("r" if entry.is_numeric else "l" for entry in shown)
    headers = [escaped_for_latex(entry.shown.header) for entry in shown if entry.shown is not None]
    body = []
    labels = sections(table)
    for row, (line, names) in enumerate(zip(lines, best, strict=True)):
        if row and labels and labels[row] != labels[row - 1]:
            body.append(r"\addlinespace")
        body.append(
            _row([_cell(entry, text, best=entry.name in names) for entry, text in zip(shown, line, strict=True)])
        )
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
            r"\toprule",
            _row(headers),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *_small_print(table, {entry.name for entry in shown} | {*(columns or ())}, has_best=any(best)),
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(entry: Column, text: str, *, best: bool) -> str:
    """The text of a cell: an accuracy, bold if it is the best, and its interval."""
    if entry.shown is not None and entry.shown.interval is not None and " [" in text:
        value, _, interval = text.partition(" [")
        return rf"{_bold(value, best=best)} {{\scriptsize [{escaped_for_latex(interval.replace(',', ', '))}}}"
    if text == "-":
        return "--"
    cell = _bold(text, best=best)
    return cell.replace("-", "$-$", 1) if entry.is_numeric and text.startswith("-") else cell


def _bold(text: str, *, best: bool) -> str:
    escaped = escaped_for_latex(text)
    return rf"\textbf{{{escaped}}}" if best else escaped


def _small_print(table: pd.DataFrame, shown: Collection[str], *, has_best: bool) -> Iterator[str]:
    """A paragraph below the table: what its rows share, the meaning of flags and signs."""
    shared = ", ".join(f"{name} {shortened(str(value))}" for name, value in shared_values(table) if name not in shown)
    lines = [escaped_for_latex(shared)] if shared else []
    if any(name.startswith(("clean_acc", "robust_acc")) for name in shown):
        lines.append(r"accuracies in percent, with 95\,\% confidence intervals")
    if has_best:
        lines.append(rf"\textbf{{bold}}: {escaped_for_latex(BEST)}")
    marks = flag_marks(table) if "flags" in shown else {}
    texts = flag_texts(marks)
    for flag, mark in marks.items():
        lines.append(
            rf"{mark}: \texttt{{{escaped_for_latex(shortened(flag))}}}, {escaped_for_latex(texts.get(flag, 'unknown'))}"
        )
    lines += map(escaped_for_latex, notes(table, shown))
    if lines:
        yield rf"{{\par\smallskip\footnotesize\raggedright {'; '.join(lines)}.\par}}"

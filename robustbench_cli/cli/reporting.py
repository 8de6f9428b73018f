"""Shows a table of results with its gates: on stdout, in files, and in the summary of a step of GitHub Actions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli.gate_args import GateArgs, Judged
from robustbench_cli.cli.table_args import TableArgs
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.html.content import PageContent
    from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey

__all__ = ["Reporting", "audited_verdicts", "page_content", "show"]

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub Actions names the file of a step's summary."""

_MOST_ROWS = 200
"""The largest number of rows in such a summary: GitHub refuses one of more than 1 MiB."""


@dataclass(frozen=True)
class Reporting:
    """How a command reports its table.

    Attributes:
        output_format: ``table``, or the name of a format of files.
        outputs: The files.
        gates: The gates.
        view: The columns and the order of the rows.
    """

    output_format: str = "table"
    outputs: Sequence[Path] = ()
    gates: GateArgs = field(default_factory=GateArgs)
    view: TableArgs = field(default_factory=TableArgs)

    @property
    def needs_rows(self) -> bool:
        """Whether there is nothing to show without a result."""
        names = {self.output_format, *(formats.format_of_file(path) for path in self.outputs)}
        return not any(entry.takes_cases for entry in formats.FORMATS if entry.name in names)


def show(judged: Judged, reporting: Reporting, content: Callable[[pd.DataFrame], PageContent] | None = None) -> None:
    """Prints a table in a format, and writes it to files.

    Args:
        judged: The rows, and what the gates say.
        reporting: The format and the files.
        content: See :func:`~robustbench_cli.benchmarks.reports.formats.as_text`.

    Raises:
        UserError: A file cannot be written.
    """
    reporting.view.show(judged.table, reporting.output_format, reporting.outputs, judged.cases, content)
    if reporting.output_format == "github" and os.environ.get(_STEP_SUMMARY):
        _add_step_summary(Path(os.environ[_STEP_SUMMARY]), judged)


def _add_step_summary(path: Path, judged: Judged) -> None:
    """Adds the gates and the table to the summary of a step."""
    shown: pd.DataFrame = judged.table.head(_MOST_ROWS)
    more = len(judged.table) - len(shown)
    text = formats.as_text(shown, "markdown", cases=judged.cases)
    text += f"\nand {more} more rows\n" if more else ""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise UserError(f"{_STEP_SUMMARY}={path} cannot be written ({error.strerror or error})") from None


def page_content(table: pd.DataFrame, *, stores: Sequence[Path], **others: Any) -> PageContent:
    """All that an HTML page shows of some rows; the stored rows are audited now.

    Args:
        table: The rows, in the order in which they are shown.
        stores: The folders that they are from.
        **others: See :class:`~robustbench_cli.benchmarks.reports.html.content.PageContent`.
    """
    from robustbench_cli.benchmarks.audit.row_groups import audit_store
    from robustbench_cli.benchmarks.audit.verdict import with_labels
    from robustbench_cli.benchmarks.reports.html.content import PageContent
    from robustbench_cli.benchmarks.store.store import Store

    models = {*zip(table["checkpoint_sha256"], table["norm"], strict=True)}
    # The report of the table has named the damaged files.
    audited = [group for path in stores for group in audit_store(Store(path), damaged=lambda _: None)]
    verdicts = [group for group in audited if (group.checkpoint_sha256, group.norm) in models]
    return PageContent(table=table, verdicts=with_labels(verdicts), **others)


def audited_verdicts(
    stores: Iterable[Path], *, damaged: Callable[[UserError], None]
) -> Mapping[VerdictKey, AuditedVerdict]:
    """The verdicts of stores for gates on them: of several for the same rows, the severest.

    Args:
        stores: The folders.
        damaged: Called with the error of each damaged file.
    """
    from robustbench_cli.benchmarks.audit.row_groups import audit_store
    from robustbench_cli.benchmarks.reports.verdicts import severest
    from robustbench_cli.benchmarks.store.store import Store

    return severest(group for path in stores for group in audit_store(Store(path), damaged=damaged))

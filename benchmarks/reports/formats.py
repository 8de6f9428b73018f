"""The formats that a table is written in: for each its name, its file endings and its writer.

A new format is one more entry of :data:`FORMATS`. The choices of ``--format`` and the endings of ``-o`` follow from it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports import hub, pipeline_formats
from robustbench_cli.benchmarks.reports.cases import Case
from robustbench_cli.benchmarks.reports.latex import latex_table
from robustbench_cli.benchmarks.reports.markdown import markdown_report
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_csv

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.html.content import PageContent

__all__ = [
    "FORMATS",
    "Format",
    "as_text",
    "file_endings",
    "format_names",
    "format_of_file",
    "has_notes",
    "takes_columns",
]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: Its name for ``--format``.
        endings: The endings of its files, the usual one first.
        write: Writes a table as text.
        any_table: Whether it takes tables with any columns, and not only the table of results.
        write_columns: Writes the table of results with the columns of some names, where the format has a choice.
        takes_cases: Whether it shows gates, and cells without a result: the writers take the test cases as their last argument.
        write_content: Writes the table with what else a store has; ``None`` where a format has no place for more.
        has_notes: Whether it shows the notes on a table, as that of a quick look.
    """

    name: str
    endings: tuple[str, ...]
    write: Callable[..., str]
    any_table: bool = False
    write_columns: Callable[..., str] | None = None
    takes_cases: bool = False
    write_content: Callable[[PageContent, Sequence[Case]], str] | None = None
    has_notes: bool = False


def _rounded(value: Any) -> Any:
    """A number to 12 digits, the same in every file: 0.928 rather than 0.9279999999999999."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _field(value: Any) -> Any:
    return escaped_for_csv(value) if isinstance(value, str) else _rounded(value)


def _csv(table: pd.DataFrame) -> str:
    columns = []
    for name in table.columns:
        # Most values of a column are equal to others. A missing one has the code -1, that of the empty field.
        codes, values = table[name].factorize()
        fields = [*map(_field, values.tolist()), ""]
        columns.append([fields[code] for code in codes.tolist()])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue()


def _json(table: pd.DataFrame) -> str:
    """A list of objects, with ``null`` for missing values."""
    return json.dumps(records(table.map(_rounded)), indent=1) + "\n"


def _markdown(table: pd.DataFrame, cases: Sequence[Case]) -> str:
    return markdown_report(table, gates=pipeline_formats.marks(cases))


def _markdown_columns(table: pd.DataFrame, names: Sequence[str], cases: Sequence[Case]) -> str:
    return markdown_report(table, names, gates=pipeline_formats.marks(cases))


def _html(table: pd.DataFrame, cases: Sequence[Case]) -> str:
    from robustbench_cli.benchmarks.reports.html.content import PageContent

    return _html_of_content(PageContent(table=table), cases)


def _html_of_content(content: PageContent, cases: Sequence[Case]) -> str:
    from robustbench_cli.benchmarks.reports.html.page import page

    return page(replace(content, gates=pipeline_formats.marks(cases)))


def _evidence(table: pd.DataFrame, cases: Sequence[Case]) -> str:
    from robustbench_cli.benchmarks.reports.html.content import PageContent

    return _evidence_of_content(PageContent(table=table), cases)


def _evidence_of_content(content: PageContent, cases: Sequence[Case]) -> str:
    from robustbench_cli.benchmarks.reports.evidence.statement import evidence

    return evidence(content, cases)


FORMATS: tuple[Format, ...] = (
    Format("csv", (".csv",), _csv, any_table=True, write_columns=lambda table, names: _csv(table[[*names]])),
    Format("json", (".json",), _json, any_table=True, write_columns=lambda table, names: _json(table[[*names]])),
    Format("markdown", (".md",), _markdown, write_columns=_markdown_columns, takes_cases=True, has_notes=True),
    Format("latex", (".tex",), latex_table, write_columns=latex_table, has_notes=True),
    Format("html", (".html",), _html, takes_cases=True, write_content=_html_of_content, has_notes=True),
    Format("junit", (".xml",), lambda _, cases: pipeline_formats.junit(cases), takes_cases=True),
    Format("github", (), lambda _, cases: pipeline_formats.github(cases), takes_cases=True),
    Format("sarif", (".sarif",), lambda _, cases: pipeline_formats.sarif(cases), takes_cases=True),
    Format("evidence", (".evidence.json",), _evidence, takes_cases=True, write_content=_evidence_of_content),
    Format("model-index", (".model-index.yaml",), hub.model_index),
    Format("eval-results", (".eval-results.yaml",), hub.eval_results),
)
"""The formats of files; the drawing for a terminal is the command line's."""


def format_names(*, any_table: bool = False) -> list[str]:
    """The formats' names.

    Args:
        any_table: Whether the table has other columns than the table of results.
    """
    return [entry.name for entry in FORMATS if entry.any_table or not any_table]


def file_endings(names: Collection[str] | None = None) -> list[str]:
    """The endings of files that can be written.

    Args:
        names: The possible ones of :func:`format_names`; ``None`` for all.
    """
    return [ending for entry in FORMATS if names is None or entry.name in names for ending in entry.endings]


def as_text(
    table: pd.DataFrame,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    cases: Callable[[], Sequence[Case]] = tuple,
    content: Callable[[pd.DataFrame], PageContent] | None = None,
) -> str:
    """A table in a format.

    Args:
        table: The rows.
        name: One of :func:`format_names`.
        columns: The names of the columns, for a format that :func:`takes_columns`; ``None`` for the usual ones.
        cases: Makes the test cases of the report: the gates, and all cells.
        content: Collects what else a store has of the rows; it is called for a format that shows more than the table.
    """
    entry = _format(name)
    if entry.write_content is not None and content is not None:
        return entry.write_content(content(table), cases())
    last = (cases(),) if entry.takes_cases else ()
    if columns is None:
        return entry.write(table, *last)
    assert entry.write_columns is not None
    return entry.write_columns(table, columns, *last)


def takes_columns(name: str) -> bool:
    """Whether a user may choose the columns of a format.

    Args:
        name: One of :func:`format_names`.
    """
    return _format(name).write_columns is not None


def has_notes(name: str) -> bool:
    """Whether a format shows the notes on a table.

    Args:
        name: One of :func:`format_names`.
    """
    return _format(name).has_notes


def _format(name: str) -> Format:
    return next(entry for entry in FORMATS if entry.name == name)


def format_of_file(path: Path, names: Collection[str] | None = None) -> str:
    """The name of the format that a file's ending selects.

    Args:
        path: The file.
        names: See :func:`file_endings`.

    Raises:
        UserError: No possible format has the ending.
    """
    endings = file_endings(names)
    name = path.name.lower()
    # The longest ending: a.evidence.json is no table in JSON.
    ending = max((ending for ending in endings if name.endswith(ending) and name != ending), key=len, default=None)
    for entry in FORMATS:
        if ending in entry.endings:
            return entry.name
    raise UserError(f"-o {path}: the ending selects the format: give one of {', '.join(endings)}")

"""Draws tables for a terminal and writes them to files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.best_values import BEST, best_values
from robustbench_cli.benchmarks.reports.columns import shared_values
from robustbench_cli.benchmarks.reports.legend import flag_marks, flag_texts, notes, quick_look
from robustbench_cli.benchmarks.reports.markdown import markdown_table
from robustbench_cli.benchmarks.reports.readable import (
    FLAG_NAMES,
    ReadableTable,
    ambiguous_files,
    hiding_order,
    readable,
    sections,
)
from robustbench_cli.cli import console
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_terminal, shortened

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from robustbench_cli.benchmarks.execution.status import CellState
    from robustbench_cli.benchmarks.reports.cases import Case
    from robustbench_cli.benchmarks.reports.html.content import PageContent

__all__ = [
    "aligned",
    "cell_states",
    "for_terminal",
    "plain",
    "print_and_write",
    "require_writable",
    "show_other",
    "write",
    "write_text",
]


def print_and_write(table: pd.DataFrame, drawn: RenderableType, outputs: Sequence[Path]) -> None:
    """Prints a table, and writes it to the files that the user names.

    Args:
        table: The rows.
        drawn: The table as it is printed.
        outputs: The files.

    Raises:
        UserError: The ending of a file is unknown, or a file cannot be written.
    """
    console.report(drawn)
    for path in outputs:
        write(table, path)


def write(
    table: pd.DataFrame,
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    cases: Callable[[], Sequence[Case]] = tuple,
    content: Callable[[pd.DataFrame], PageContent] | None = None,
) -> None:
    """Writes a table in the format of the file's ending.

    Args:
        table: The rows.
        path: The file.
        columns: The names of its columns; ``None`` for the usual ones.
        cases: See :func:`~robustbench_cli.benchmarks.reports.formats.as_text`.
        content: As there.

    Raises:
        UserError: The ending is unknown, or the file cannot be written.
    """
    name = formats.format_of_file(path)
    write_text(path, formats.as_text(table, name, columns=columns, cases=cases, content=content))


def write_text(path: Path, text: str) -> None:
    """Writes a file of the user atomically, and notes it.

    Args:
        path: The file.
        text: Its content.

    Raises:
        UserError: The file cannot be written.
    """
    from robustbench_cli.core.atomic_write import write_atomically

    write_atomically(path, text.encode())
    console.note(f"wrote {path}")


def require_writable(paths: Sequence[Path], names: Collection[str] | None = None) -> None:
    """Checks, before anything is computed, that files can be written; creates their folders.

    Args:
        paths: The files.
        names: The possible formats; ``None`` for all.

    Raises:
        UserError: An ending is unknown, or a folder cannot be written.
    """
    from robustbench_cli.core.atomic_write import ensure_writable

    for path in paths:
        formats.format_of_file(path, names)
        ensure_writable(path.parent)


def plain(*values: object) -> list[str]:
    """The texts of a row, each in one line without control characters."""
    return [escaped_for_terminal(str(value)) for value in values]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns.

    Args:
        lines: The texts of each line, one per column.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


_CAPTION = 60
"""The least number of characters in a line below a table."""


@dataclass
class _Drawing:
    """A table as rich draws it without a frame. Rich itself takes a millisecond for each row.

    Attributes:
        headers: The columns' headers.
        numeric: Whether each column is right-justified.
        lines: The texts of the rows.
        title: The line above.
        caption: The lines below.
        sections: A label for each row; a blank line separates rows with different labels.
    """

    headers: Sequence[str]
    numeric: Sequence[bool]
    lines: Sequence[Sequence[str]]
    title: str = ""
    caption: Sequence[str] = ()
    sections: Sequence[str] = field(default=())

    @cached_property
    def _widths(self) -> list[int]:
        """The number of characters in each column."""
        columns = zip(self.headers, *self.lines, strict=True)
        return [max(_length(part) for text in {*column} for part in text.split("\n")) for column in columns]

    @property
    def width(self) -> int:
        """The number of characters in a line of the table."""
        # One blank on each side of a column.
        return sum(width + 2 for width in self._widths)

    def broken_at_commas(self) -> _Drawing:
        """The table with each parameter of an attack or a defense in a line of its own."""
        return replace(self, lines=[[text.replace(",", ",\n") for text in line] for line in self.lines])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """The headers and the rows as wide as the content, a caption that is not too narrow, and the title on one line."""
        from rich.segment import Segment
        from rich.text import Text

        of_caption = options.update(width=max(self.width, min(options.max_width, _CAPTION)), height=None)
        if self.title:
            title = Text(self.title, "table.title", justify="left")
            yield from console.render(title, options.update(width=max(self.width, min(options.max_width, len(title)))))
        blank = Segment(f"{'':{self.width}}\n")
        yield blank
        (header,) = self._texts(self.headers)
        yield Segment(header, console.get_style("table.header"))
        yield Segment(f"\n {'─' * (self.width - 2)} \n")
        for number, row in enumerate(self.lines):
            if self.sections and number and self.sections[number] != self.sections[number - 1]:
                yield blank
            for line in self._texts(row):
                yield Segment(f"{line}\n")
        yield blank
        if self.caption:
            yield from console.render(Text("\n".join(self.caption), "table.caption", justify="left"), of_caption)

    def _texts(self, row: Sequence[str]) -> Iterator[str]:
        """The lines of a row."""
        for parts in zip_longest(*(text.split("\n") for text in row), fillvalue=""):
            cells = []
            for part, width, numeric in zip(parts, self._widths, self.numeric, strict=True):
                filling = " " * (width - _length(part))
                cells.append(f"{filling}{part}" if numeric else f"{part}{filling}")
            yield f" {'  '.join(cells)} "


def _length(text: str) -> int:
    """The number of characters that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitted(drawing: Callable[[Sequence[str]], _Drawing], hideable: Sequence[str]) -> _Drawing:
    """Draws a table that fits the terminal, with as little hidden as possible; in a pipe nothing is hidden.

    Args:
        drawing: Makes the table without some of ``hideable``.
        hideable: The parts that can be hidden, the least important first.
    """
    width = console.width()
    hidden: list[str] = []
    table = drawing(hidden)
    for name in hideable:
        if width is None or table.width <= width:
            break
        hidden.append(name)
        table = drawing(hidden)
    if width is not None and table.width > width:
        table = table.broken_at_commas()
    return table


def for_terminal(table: pd.DataFrame, *, columns: Sequence[str] | None = None, wide: bool = False) -> RenderableType:
    """Draws the table of results: shared values above it, confidence intervals behind the accuracies, best values marked.

    On a narrow terminal, marks take the place of the names of flags, and intervals and then columns are left out and
    named below. The columns that distinguish rows always stay, and so do those that the user chose.

    Args:
        table: The rows.
        columns: The names of the columns that the user chose.
        wide: Whether nothing is left out, however narrow the terminal is.
    """

    def drawing(hidden: Sequence[str]) -> _Drawing:
        shown, lines = readable(table, hidden, names=columns)
        best = best_values(table, shown)
        for line, names in zip(lines, best, strict=True):
            for index, entry in enumerate(shown if names else ()):
                line[index] = f"*{line[index]}" if entry.name in names else line[index]
        return _Drawing(
            headers=[entry.shown.header for entry in shown if entry.shown is not None],
            numeric=[entry.is_numeric for entry in shown],
            lines=[plain(*line) for line in lines],
            title=_shared(table, columns or ()),
            caption=_legend(table, {entry.name for entry in shown}, hidden, has_best=any(best)),
            sections=sections(table),
        )

    if wide:
        return drawing(())
    order = hiding_order(table, names=columns)
    # Without a legend, only their names say what flags mean.
    return _fitted(drawing, [name for name in order if name != FLAG_NAMES or not console.settings.quiet])


def _drawn(table: ReadableTable) -> RenderableType:
    """A table for a terminal."""

    def drawing(hidden: Sequence[str]) -> _Drawing:
        shown = [index for index, header in enumerate(table.headers) if header not in hidden]
        without = [f"hidden (terminal too narrow): {', '.join(hidden)}"] if hidden else []
        return _Drawing(
            headers=[table.headers[index] for index in shown],
            numeric=[table.numeric[index] for index in shown],
            lines=[plain(*(line[index] for index in shown)) for line in table.lines],
            title=table.title,
            caption=[*map(escaped_for_terminal, table.caption), *without],
            sections=table.sections,
        )

    return _fitted(drawing, table.hideable)


def show_other(
    option: str, table: pd.DataFrame, shown: ReadableTable, *, output_format: str, outputs: Sequence[Path]
) -> None:
    """Prints a table that an option shows in place of the results, and writes it to files.

    Args:
        option: The option.
        table: The table for CSV and JSON.
        shown: The same for a terminal and Markdown.
        output_format: ``table``, or the format of a file.
        outputs: The files.

    Raises:
        UserError: The format is for the table of results alone, or a file cannot be written.
    """

    def text(name: str) -> str:
        if name == "markdown":
            return markdown_table(shown.headers, shown.numeric, shown.lines)
        if name not in formats.format_names(any_table=True):
            raise UserError(f"{option} has no format {name}: give table, csv, json or markdown")
        return formats.as_text(table, name)

    contents = [text(formats.format_of_file(path)) for path in outputs]
    if output_format == "table":
        console.report(_drawn(shown))
    else:
        console.report(text(output_format))
        for line in shown.caption:
            console.note(line)
    for path, content in zip(outputs, contents, strict=True):
        write_text(path, content)


def _legend(table: pd.DataFrame, shown: Collection[str], hidden: Sequence[str], *, has_best: bool) -> list[str]:
    """The lines below the table: the meaning of its signs, with ``-q`` of its flags alone, and what is hidden.

    Args:
        table: The rows.
        shown: The names of its columns.
        hidden: What is left out; see :func:`~.readable.hiding_order`.
        has_best: Whether best values are marked.
    """
    left_out = [name for name in hidden if name != FLAG_NAMES]
    without = [f"hidden (terminal too narrow): {', '.join(left_out)}"] if left_out else []
    marks = flag_marks(table)
    texts = flag_texts(marks)
    if FLAG_NAMES in hidden:
        caption = [f"{mark} {shortened(flag)}: {texts.get(flag, 'unknown')}" for flag, mark in marks.items()]
    else:
        caption = [f"{shortened(flag)}: {text}" for flag, text in texts.items()]
    if console.settings.quiet:
        # That the figures may be overstated is a warning, and stays.
        return [*map(escaped_for_terminal, caption), *quick_look(table), *without]
    caption += notes(table, shown)
    return [*map(escaped_for_terminal, caption), *([f"* {BEST}"] if has_best else []), *without]


def _shared(table: pd.DataFrame, columns: Collection[str]) -> str:
    """The values that all rows share, for the line above the table, but for those in columns that the user chose."""
    return escaped_for_terminal(
        ", ".join(f"{name} {shortened(str(value))}" for name, value in shared_values(table) if name not in columns)
    )


@dataclass(frozen=True)
class _CellColumn:
    """A column of ``advdef sweep --dry-run``.

    Attributes:
        name: The header.
        text: The text of a cell.
        numeric: Whether it is right-justified.
        in_title: Whether a value that all cells share is printed above the table on a narrow terminal.
        hide: The rank in which a narrow terminal hides the column, lowest first; None: never hidden.
    """

    name: str
    text: Callable[[CellState], str]
    numeric: bool = False
    in_title: bool = True
    hide: int | None = None


def _state_of(cell: CellState) -> str:
    """The state of a cell, with the share of its images whose results are stored."""
    return f"{cell.state}, {cell.images_stored}/{cell.job.cell.n} images" if cell.images_stored else cell.state


_CELL_COLUMNS = (
    _CellColumn("dataset", lambda cell: cell.job.cell.dataset),
    _CellColumn("model", lambda cell: cell.job.cell.model),
    _CellColumn("n", lambda cell: str(cell.job.cell.n), numeric=True),
    _CellColumn("defense", lambda cell: cell.job.cell.defense, in_title=False),
    _CellColumn("checkpoint", lambda cell: cell.job.named_checkpoint),
    _CellColumn("mean", lambda cell: ",".join(map(repr, cell.job.mean or ())) or "-"),
    _CellColumn("std", lambda cell: ",".join(map(repr, cell.job.std or ())) or "-"),
    _CellColumn("corruption", lambda cell: cell.job.cell.corruption_label or "-"),
    _CellColumn("severity", lambda cell: str(cell.job.cell.severity or "-"), numeric=True),
    _CellColumn("attack", lambda cell: cell.job.cell.attack_label, in_title=False),
    _CellColumn("norm", lambda cell: cell.job.cell.norm),
    _CellColumn("eps", lambda cell: cell.job.eps or "any"),
    _CellColumn("targeted", lambda cell: cell.job.cell.targeted),
    _CellColumn("eot", lambda cell: str(cell.job.cell.eot), numeric=True),
    _CellColumn("seed", lambda cell: str(cell.job.cell.seed), numeric=True),
    _CellColumn("passes", lambda cell: "unknown" if cell.passes is None else f"{cell.passes:,}", numeric=True, hide=2),
    _CellColumn("state", _state_of, in_title=False),
    _CellColumn("changed", lambda cell: "; ".join(cell.changed), hide=1),
)


def cell_states(cells: Sequence[CellState]) -> RenderableType:
    """Draws the cells of a suite with their state and cost.

    On a narrow terminal, the values that all cells share stand above the table, and costs are left out.
    """
    files = ambiguous_files(
        ((cell.job.cell.dataset, cell.job.cell.model, cell.job.cell.defense), cell.job.named_checkpoint)
        for cell in cells
    )
    texts = {entry.name: [entry.text(cell) for cell in cells] for entry in _CELL_COLUMNS}
    texts["checkpoint"] = [files.get(path, "") for path in texts["checkpoint"]]
    several_normalizations = len({(cell.job.mean, cell.job.std) for cell in cells}) > 1
    has_column = {
        "checkpoint": bool(files),
        "mean": several_normalizations,
        "std": several_normalizations,
        "corruption": any(cell.job.cell.corruption for cell in cells),
        "severity": any(cell.job.cell.corruption for cell in cells),
        "changed": any(texts["changed"]),
    }
    present = [entry for entry in _CELL_COLUMNS if has_column.get(entry.name, True)]
    shared = [entry.name for entry in present if entry.in_title and len({*texts[entry.name]}) == 1]
    hideable = sorted((entry.hide, entry.name) for entry in present if entry.hide is not None)

    def drawing(hidden: Sequence[str]) -> _Drawing:
        columns = [entry for entry in present if entry.name not in hidden]
        left_out = [name for name in hidden if name not in shared]
        return _Drawing(
            headers=[entry.name for entry in columns],
            numeric=[entry.numeric for entry in columns],
            lines=[plain(*line) for line in zip(*(texts[entry.name] for entry in columns), strict=True)],
            title=", ".join(f"{name} {texts[name][0]}" for name in hidden if name in shared),
            caption=[f"hidden (terminal too narrow): {', '.join(left_out)}"] if left_out else [],
        )

    return _fitted(drawing, [*shared, *(name for _, name in hideable)])

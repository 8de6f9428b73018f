"""The options that choose the columns and the order of the table of results: ``--columns``, ``--sort``, ``--wide``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.legend import quick_look
from robustbench_cli.benchmarks.reports.selection import (
    parse_columns,
    parse_sort,
    require_columns,
    sorted_rows,
    without_names,
)
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.option_sets import OptionSet
from robustbench_cli.cli.options import option
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.cases import Case
    from robustbench_cli.benchmarks.reports.html.content import PageContent

__all__ = ["TableArgs", "table_options"]


@dataclass(frozen=True)
class TableArgs:
    """How the table of results is shown and written.

    Attributes:
        columns: The names of its columns, from left to right; ``None`` for the usual ones.
        sort: The columns by which the rows are sorted, the most important first.
        wide: Whether a narrow terminal hides nothing.
    """

    columns: Sequence[str] | None = None
    sort: Sequence[str] = ()
    wide: bool = False

    @classmethod
    def from_options(cls, *, columns: str | None, sort: tuple[str, ...], wide: bool) -> TableArgs:
        """Reads the names of columns.

        Args:
            columns: Names with commas between them; ``None`` for the usual columns.
            sort: Names, ``-`` in front of those that sort from the largest value down.
            wide: See :class:`TableArgs`.

        Raises:
            UserError: A name is unknown.
        """
        return cls(None if columns is None else parse_columns(columns), [parse_sort(text) for text in sort], wide)

    def require_format(self, output_format: str, outputs: Sequence[Path]) -> None:
        """Refuses options that a format would ignore.

        Args:
            output_format: The format of stdout.
            outputs: The files.

        Raises:
            UserError: A format has columns of its own, or does not depend on the width of a terminal.
        """
        if self.wide and output_format != "table":
            raise UserError(f"--wide is for the table: {output_format} leaves nothing out, so leave --wide out")
        written = [name for name in (output_format, *map(formats.format_of_file, outputs)) if name != "table"]
        given = [option for option, value in (("--columns", self.columns), ("--sort", self.sort)) if value]
        for name in written:
            if given and not formats.takes_columns(name):
                raise UserError(f"{given[0]} is not for {name}, whose content is fixed: leave it out")

    def require_none(self, option: str) -> None:
        """Refuses the options beside one that shows another table.

        Raises:
            UserError: One of them is given.
        """
        given = {"--columns": self.columns is not None, "--sort": bool(self.sort), "--wide": self.wide}
        for name, is_given in given.items():
            if is_given:
                raise UserError(f"{name} is for the table of results, and {option} shows another one: leave one out")

    def show(
        self,
        table: pd.DataFrame,
        output_format: str,
        outputs: Sequence[Path],
        cases: Callable[[], Sequence[Case]] = tuple,
        content: Callable[[pd.DataFrame], PageContent] | None = None,
    ) -> None:
        """Prints the table in a format, and writes it to files.

        Args:
            table: The rows.
            output_format: ``table``, or the format of a file.
            outputs: The files.
            cases: See :func:`~robustbench_cli.benchmarks.reports.formats.as_text`.
            content: As there.

        Raises:
            UserError: The table lacks a column, or a file cannot be written.
        """
        require_columns(table, self.columns or (), option="--columns")
        if self.columns and (lacking := without_names(table, self.columns)):
            console.warn(f"--columns leaves out which row is which: add {','.join(lacking)}")
        table = sorted_rows(table, self.sort)
        if output_format == "table":
            has_rows = len(table) > 0
            console.report(tables.for_terminal(table, columns=self.columns, wide=self.wide) if has_rows else "no rows")
        else:
            console.report(formats.as_text(table, output_format, columns=self.columns, cases=cases, content=content))
            for line in () if formats.has_notes(output_format) else quick_look(table):
                console.note(line)
        for path in outputs:
            tables.write(table, path, columns=self.columns, cases=cases, content=content)


table_options = OptionSet(
    "view",
    TableArgs.from_options,
    (
        option(
            "--columns",
            metavar="NAME,...",
            group="Output",
            help="Show these columns alone, in this order: names of the CSV file, such as defense,eps,robust_accuracy.",
        ),
        option(
            "--sort",
            multiple=True,
            metavar="COLUMN",
            group="Output",
            help="Sort the rows by this column; -COLUMN sorts from the largest value down. Repeatable.",
        ),
        option("--wide", is_flag=True, group="Output", help="Hide no column, however narrow the terminal is."),
    ),
)
"""Adds the options; they arrive as ``view``, a :class:`TableArgs`."""

"""The options that draw the table of results: ``--plot`` in the terminal, ``--plots`` in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.benchmarks.reports.plots import PLOT_FORMATS, require_matplotlib, write_plots
from robustbench_cli.cli import console
from robustbench_cli.cli.option_sets import OptionSet
from robustbench_cli.cli.options import option
from robustbench_cli.cli.param_types import OneOf
from robustbench_cli.core.atomic_write import ensure_writable
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey

__all__ = ["PlotArgs", "plot_options"]

_WIDTH = 100
"""The largest width of a plot in characters; in a pipe it is 80."""


@dataclass(frozen=True)
class PlotArgs:
    """The plots that a command draws.

    Attributes:
        in_terminal: Whether one is drawn below the table.
        folder: The folder of the files; ``None`` for none.
        formats: The formats of the files.
    """

    in_terminal: bool = False
    folder: Path | None = None
    formats: Sequence[str] = ()

    @classmethod
    def from_options(cls, *, plot: bool, plots: Path | None, plot_formats: tuple[str, ...]) -> PlotArgs:
        """Makes sure that files can be drawn and written, before any store is read.

        Args:
            plot: See :class:`PlotArgs`.
            plots: See :class:`PlotArgs`.
            plot_formats: The formats of files; by default SVG.

        Raises:
            UserError: A format is given without a folder, the folder cannot be written, or matplotlib is not installed.
        """
        if plots is None:
            if plot_formats:
                raise UserError("--plot-format is for files: give --plots DIR too, or leave it out")
            return cls(in_terminal=plot)
        require_matplotlib()
        ensure_writable(plots)
        return cls(plot, plots, tuple(dict.fromkeys(plot_formats)) or PLOT_FORMATS[:1])

    def require_table(self, output_format: str, other: str | None) -> None:
        """Refuses options that would be ignored.

        Args:
            output_format: The format of stdout.
            other: The option that shows another table than that of results; ``None`` without one.

        Raises:
            UserError: A plot would not be drawn.
        """
        if self.in_terminal and output_format != "table":
            raise UserError(
                f"--plot draws below the table, and --format {output_format} has no room for it: leave one out"
            )
        if other is not None and (self.in_terminal or self.folder is not None):
            name = "--plots" if self.folder is not None else "--plot"
            raise UserError(f"{name} draws the table of results, and {other} shows another one: leave one out")

    def write(self, table: pd.DataFrame, audits: Callable[[], Mapping[VerdictKey, AuditedVerdict]]) -> None:
        """Writes the files.

        Args:
            table: The rows.
            audits: Reads the verdicts of audits.

        Raises:
            UserError: There is nothing to draw, or a file cannot be written.
        """
        if self.folder is not None:
            files = write_plots(table, self.folder, self.formats, verdicts=audits())
            console.note(f"wrote {len(files)} charts to {self.folder}")

    def show(self, table: pd.DataFrame) -> None:
        """Prints the plot for the terminal, or why there is none.

        Args:
            table: The rows.
        """
        if not self.in_terminal:
            return
        from robustbench_cli.benchmarks.reports.curves import radius_curves
        from robustbench_cli.cli.terminal_plot import radius_plots

        curves = radius_curves(table)
        if not curves:
            console.warn("--plot draws nothing: no model was attacked at two radii (give the attack several --eps)")
            return
        console.report(radius_plots(curves, width=min(console.width() or 80, _WIDTH), unicode=console.has_unicode()))


plot_options = OptionSet(
    "plots",
    PlotArgs.from_options,
    (
        option(
            "--plot", is_flag=True, group="Output", help="Draw the robust accuracy against the radius below the table."
        ),
        option(
            "--plots",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            group="Output",
            help="Write charts for a paper to this folder: radius, trade-off, attacks, certificates (pip install "
            "'advdef[plots]').",
        ),
        option(
            "--plot-format",
            "plot_formats",
            multiple=True,
            type=OneOf(PLOT_FORMATS),
            group="Output",
            help="Format of the charts; repeatable.  [default: svg]",
        ),
    ),
)
"""Adds the options; they arrive as ``plots``, a :class:`PlotArgs`."""

"""Shows tables from the stored draws of rows: ``advdef report --compare`` and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.cli import tables

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.comparisons import ComparedRows
    from robustbench_cli.benchmarks.reports.rows import Together
    from robustbench_cli.benchmarks.store.records import Result

    Read = Callable[[Sequence[Result]], Together | None]

__all__ = ["show_scored"]


def show_scored(
    option: str,
    compared: ComparedRows | None,
    table: pd.DataFrame,
    results: Sequence[Result],
    read: Read,
    *,
    output_format: str,
    outputs: Sequence[Path],
) -> None:
    """Prints a table from the draws of rows in a format, and writes it to files.

    Args:
        option: ``--compare``, ``--protocols``, ``--union`` or ``--by-class``.
        compared: What ``--compare`` asks for; ``None`` for the others.
        table: The rows that the user selects.
        results: The stored results.
        read: Reads the outcomes of some results; see :func:`~.reports.rows.rows`.
        output_format: ``table``, or the format of a file.
        outputs: The files.

    Raises:
        UserError: There are no rows of which the table could be made, or the format is for other tables.
    """
    from robustbench_cli.benchmarks.reports.class_rows import classes_table, readable_classes
    from robustbench_cli.benchmarks.reports.comparisons import comparisons_table, readable_comparisons
    from robustbench_cli.benchmarks.reports.norm_rows import norms_table, readable_norms
    from robustbench_cli.benchmarks.reports.protocol_rows import protocols_table, readable_protocols
    from robustbench_cli.benchmarks.reports.scored_rows import scored_rows

    scored = scored_rows(table, results, read)
    if compared is not None:
        shown = comparisons_table(compared, scored)
        drawn = readable_comparisons(shown)
    else:
        make, draw = {
            "--protocols": (protocols_table, readable_protocols),
            "--union": (norms_table, readable_norms),
            "--by-class": (classes_table, readable_classes),
        }[option]
        shown = make(scored)
        drawn = draw(shown)
    tables.show_other(option, shown, drawn, output_format=output_format, outputs=outputs)

"""Shows tables from the stored draws of rows: ``advdef report --compare`` and ``advdef report --protocols``."""

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

__all__ = ["show_comparisons", "show_protocols"]


def show_comparisons(
    compared: ComparedRows,
    table: pd.DataFrame,
    results: Sequence[Result],
    read: Read,
    *,
    output_format: str,
    outputs: Sequence[Path],
) -> None:
    """Prints the comparisons of rows in a format, and writes them to files.

    Args:
        compared: What ``--compare`` asks for.
        table: The rows that the user selects.
        results: The stored results.
        read: Reads the outcomes of some results; see :func:`~.reports.rows.rows`.
        output_format: ``table``, or the format of a file.
        outputs: The files.

    Raises:
        UserError: It fits no rows that can be compared, or the format is for other tables.
    """
    from robustbench_cli.benchmarks.reports.comparisons import comparisons_table, readable_comparisons
    from robustbench_cli.benchmarks.reports.scored_rows import scored_rows

    pairs = comparisons_table(compared, scored_rows(table, results, read))
    tables.show_other("--compare", pairs, readable_comparisons(pairs), output_format=output_format, outputs=outputs)


def show_protocols(
    table: pd.DataFrame,
    results: Sequence[Result],
    read: Read,
    *,
    output_format: str,
    outputs: Sequence[Path],
) -> None:
    """Prints the accuracies of each row under the protocols for randomized models, and writes them to files.

    Args:
        table: The rows that the user selects.
        results: The stored results.
        read: Reads the outcomes of some results; see :func:`~.reports.rows.rows`.
        output_format: ``table``, or the format of a file.
        outputs: The files.

    Raises:
        UserError: No row has several draws, or the format is for other tables.
    """
    from robustbench_cli.benchmarks.reports.protocol_rows import protocols_table, readable_protocols
    from robustbench_cli.benchmarks.reports.scored_rows import scored_rows

    counted = protocols_table(scored_rows(table, results, read))
    tables.show_other("--protocols", counted, readable_protocols(counted), output_format=output_format, outputs=outputs)

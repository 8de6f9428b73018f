"""Shows where stored results would stand on a public leaderboard: ``advdef report --leaderboard``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.cli import console, tables
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.leaderboard import RequiredAttack
    from robustbench_cli.benchmarks.store.records import Result

__all__ = ["show_standings"]


def show_standings(
    name: str, table: pd.DataFrame, results: Sequence[Result], output_format: str, outputs: Sequence[Path]
) -> None:
    """Prints the standings in a format, and writes them to files.

    Args:
        name: The leaderboard.
        table: The rows that the user selects.
        results: The stored results.
        output_format: ``table``, or the format of a file.
        outputs: The files.

    Raises:
        UserError: There is no such leaderboard, or no row that follows its protocol.
    """
    from robustbench_cli.benchmarks.reports.leaderboard import (
        SUITES,
        read_leaderboard,
        readable_standings,
        standings,
        standings_table,
    )
    from robustbench_cli.core.atomic_write import write_atomically

    board = read_leaderboard(name)
    found, refused = standings(board, table, results, {suite: _attacks(suite) for suite in SUITES})
    standing_table = standings_table(board, found)
    notes = list(dict.fromkeys(note for standing in found for note in standing.notes))
    if output_format == "table":
        headers, lines = readable_standings(standing_table)
        order = "mean accuracy over corruptions" if board.norm is None else "lowest known robust accuracy"
        source = f"{board.source}, {board.date}: the {len(board.entries)} models of its zoo, by {order}"
        drawn = tables.of_texts(
            headers,
            [header in _NUMERIC for header in headers],
            lines,
            hideable=("paper", "venue", "architecture"),
            title=f"{board.name} ({board.protocol}, n {board.n})",
            caption=[source, *notes],
            sections=list(standing_table["cell"]),
        )
        console.report(drawn)
    else:
        console.report(_as_text(standing_table, output_format))
        for line in notes:
            console.note(line)
    for line in refused:
        console.warn(line)
    for path in outputs:
        from robustbench_cli.benchmarks.reports.formats import format_of_file

        write_atomically(path, _as_text(standing_table, format_of_file(path)).encode())
        console.note(f"wrote {path}")


_NUMERIC = ("rank", "clean", "robust")
"""The headers of the columns that are right-justified."""


def _as_text(table: pd.DataFrame, name: str) -> str:
    """The standings in a format of files."""
    from robustbench_cli.benchmarks.reports import formats
    from robustbench_cli.benchmarks.reports.leaderboard import readable_standings

    if name == "markdown":
        headers, lines = readable_standings(table)
        return formats.markdown(headers, [header in _NUMERIC for header in headers], lines)
    if name not in {entry.name for entry in formats.FORMATS if entry.any_table}:
        raise UserError(f"--leaderboard has no format {name}: give table, csv, json or markdown")
    return formats.as_text(table, name)


def _attacks(suite: str) -> list[RequiredAttack]:
    """The attacks that a suite always runs."""
    from robustbench_cli.benchmarks.reports.leaderboard import RequiredAttack
    from robustbench_cli.benchmarks.suites.load import read_suite

    return [
        RequiredAttack(entry.name, entry.parameters, entry.norm)
        for entry in read_suite(suite).entries
        if entry.only_if is None
    ]

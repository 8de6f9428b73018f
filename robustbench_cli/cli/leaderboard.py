"""Shows where stored results would stand on a public leaderboard: ``advdef report --leaderboard``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.cli import console, tables

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

    board = read_leaderboard(name)
    found, refused = standings(board, table, results, {suite: _attacks(suite) for suite in SUITES})
    standing_table = standings_table(board, found)
    shown = readable_standings(board, found, standing_table)
    tables.show_other("--leaderboard", standing_table, shown, output_format=output_format, outputs=outputs)
    for line in refused:
        console.warn(line)


def _attacks(suite: str) -> list[RequiredAttack]:
    """The attacks that a suite always runs."""
    from robustbench_cli.benchmarks.reports.leaderboard import RequiredAttack
    from robustbench_cli.benchmarks.suites.load import read_suite

    return [
        RequiredAttack(entry.name, entry.parameters, entry.norm)
        for entry in read_suite(suite).entries
        if entry.only_if is None
    ]

"""The partial results of unfinished cells in a store: verifies and merges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from robustbench_cli.benchmarks.evaluation.partial_results import is_intact
from robustbench_cli.benchmarks.store.records import read_bytes
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["complete_partial_results", "merge_partial_results"]


def complete_partial_results(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[Path]:
    """The files of partial results in a store that are as they were stored.

    Args:
        store: The folder of the store.
        damaged: Called with a message for each file that is not.
    """
    for path in sorted((store / PARTIAL_RESULTS).glob("*/*.piece")):
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            # Another process has just finished the cell.
            continue
        except OSError:
            content = b""
        if is_intact(content):
            yield path
        else:
            damaged(UserError(f"{path} is damaged, its content is not what was stored: remove it to compute it again"))


def merge_partial_results(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> None:
    """Copies the partial results of another store, for the cells that neither store has finished.

    Args:
        store: The folder of the store.
        other: The folder of the other store, which stays as it is.
        damaged: As for :func:`complete_partial_results`.

    Raises:
        UserError: This store cannot be written.
    """
    for path in complete_partial_results(other, damaged=damaged):
        copy = store / path.relative_to(other)
        is_finished = any((folder / "cells" / f"{path.parent.name}.json").exists() for folder in (store, other))
        if not copy.exists() and not is_finished:
            write_atomically(copy, read_bytes(path))

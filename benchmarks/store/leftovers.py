"""The files of a store that no result needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, Store
from robustbench_cli.core.atomic_write import stale_temporary_files
from robustbench_cli.core.errors import UserError

__all__ = ["leftovers"]


def leftovers(store: Store, *, older_than: float, holder: Callable[[str], str | None] = lambda _: None) -> list[Path]:
    """Files that no result needs: incomplete files of killed processes, outcomes without a result, old failures.

    Args:
        store: The store.
        older_than: Seconds; another process may still be writing younger files.
        holder: Which process holds a cell; the files of a held cell stay, however old they are.

    Raises:
        UserError: The folder is no store.
    """
    store.require_exists()
    names = {path.name for path in store.cells.glob("*.json")}
    unneeded = []
    for path in sorted(store.cells.glob("*")):
        cell_id = path.name.removeprefix(".").partition(".")[0]
        # Another process may have renamed or removed the file since the folder was listed.
        with suppress(FileNotFoundError):
            is_old = time.time() - path.stat().st_mtime >= older_than
            if not _is_needed(store, path, cell_id, names) and is_old and holder(cell_id) is None:
                unneeded.append(path)
    partial_results = sorted((store.path / PARTIAL_RESULTS).glob("*/*"))
    unneeded += [path for path in partial_results if f"{path.parent.name}.json" in names]
    for folder in (store.requests.folder, *sorted((store.path / PARTIAL_RESULTS).glob("*"))):
        temporary = stale_temporary_files(folder, older_than=older_than)
        unneeded += [path for path in temporary if path not in unneeded]
    return unneeded + store.requests.contained()


def _is_needed(store: Store, path: Path, cell_id: str, names: set[str]) -> bool:
    """Whether a file of the cells' folder is a result, its outcomes, or a failure that no result has replaced."""
    is_done = f"{cell_id}.json" in names
    if path.suffix == ".npz" and is_done:
        try:
            return path == store.outcomes_file(store.unverified_result(cell_id))
        except UserError:
            # A result that cannot be read does not tell which outcomes are its own.
            return True
    return path.name.endswith(".json") and not (is_done and path.name.endswith(".failed.json"))

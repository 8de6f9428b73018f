from __future__ import annotations

from pathlib import Path

import torch

from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult, PartialResults
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS
from robustbench_cli.benchmarks.store.unfinished import complete_partial_results, merge_partial_results
from robustbench_cli.core.errors import UserError


def store_batch(store: Path, cell: str, start: int = 0) -> Path:
    """Stores a batch of a cell."""
    folder = store / PARTIAL_RESULTS / cell
    result = BatchResult(
        indices=torch.arange(2),
        outcomes={},
        perturbed=torch.zeros(2, 1, 1, 1),
        flags=frozenset(),
        forwards=1,
        backwards=1,
        without_gradient=0,
        seconds=1,
    )
    PartialResults(folder, images=False).write(range(start, start + 2), result)
    return folder / f"{start}-{start + 2}.piece"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    """And the others are listed."""
    whole, damaged = store_batch(tmp_path, "a"), store_batch(tmp_path, "a", 8)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    errors: list[UserError] = []
    assert list(complete_partial_results(tmp_path, damaged=errors.append)) == [whole]
    assert [str(error) for error in errors] == [
        f"{damaged} is damaged, its content is not what was stored: remove it to compute it again"
    ]


def test_only_batches_of_unfinished_cells_are_merged(tmp_path: Path) -> None:
    """Neither those that this store has, nor those of a cell that either store has finished."""
    store, other = tmp_path / "store", tmp_path / "other"
    for cell in ("new", "done-here", "done-there", "here"):
        store_batch(other, cell)
    own = store_batch(store, "here")
    own.write_bytes(b"own")
    for folder, cell in ((store, "done-here"), (other, "done-there")):
        (folder / "cells").mkdir(parents=True)
        (folder / "cells" / f"{cell}.json").touch()
    merge_partial_results(store, other, damaged=lambda error: None)
    assert {path.parent.name for path in (store / PARTIAL_RESULTS).glob("*/*")} == {"new", "here"}
    assert own.read_bytes() == b"own"

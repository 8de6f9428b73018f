from __future__ import annotations

import hashlib

from robustbench_cli.benchmarks.store.leftovers import leftovers
from robustbench_cli.benchmarks.store.records import RequestedCell

from ..conftest import MakeCell
from .conftest import Filled


def test_a_store_is_all_needed_but_half_written_files(filled: Filled) -> None:
    """A half-written file that gets its name meanwhile is none either, and young files stay."""
    store, _, _ = filled()
    halves = [store.path / "cells" / f".{name}.json.half" for name in "ab"]
    for half in halves:
        half.touch()
    assert leftovers(store, older_than=60) == []
    assert leftovers(store, older_than=0, holder=lambda cell: halves[1].unlink(missing_ok=True)) == halves[:1]


def test_outcomes_of_a_replaced_result_are_not_needed(filled: Filled) -> None:
    """The result that a run replaced leaves its outcomes; those of the result that is there stay."""
    store, result, outcomes = filled()
    (replaced,) = store.cells.glob("*.npz")
    content = outcomes.within(0).to_bytes()
    changed = result.model_copy(update={"outcomes_sha256": hashlib.sha256(content).hexdigest()})
    store.publish(changed, content, replacing=store.result_hash(result.cell.id))
    assert leftovers(store, older_than=0) == [replaced]


def test_a_request_inside_another_is_not_needed(filled: Filled, make_cell: MakeCell) -> None:
    """The request of a part of a suite goes, and that of the whole suite stays."""
    store, _, _ = filled()
    part, rest = (RequestedCell(cell=make_cell(seed=seed), eps="", checkpoint="") for seed in (1, 2))
    store.request([part])
    (file,) = (store.path / "asked").iterdir()
    store.request([part, rest])
    assert leftovers(store, older_than=0) == [file]

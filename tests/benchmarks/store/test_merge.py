from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_cli.benchmarks.store import merge as merge_module
from robustbench_cli.benchmarks.store.merge import merge
from robustbench_cli.benchmarks.store.records import Failure, RequestedCell
from robustbench_cli.benchmarks.store.store import Store

from ..conftest import MakeCell
from .conftest import Filled


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_a_merge_copies_what_is_missing(
    tmp_path: Path, filled: Filled, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Results with their outcomes, failures and requests; what is there stays, and a second merge copies nothing."""
    monkeypatch.setattr(merge_module, "_COPIED_AT_ONCE", at_once)
    for seed in range(3):
        store, result, outcomes = filled(seed)
    store.request([RequestedCell(cell=result.cell, eps="8/255", checkpoint="")])
    failure = Failure(cell=make_cell(seed=3), eps="8/255", error="out of memory")
    store.publish_failure(failure)
    into = Store(tmp_path / "into")
    into.publish(result.model_copy(update={"seconds": 9.0}), outcomes.to_bytes())
    into.publish_failure(Failure(cell=make_cell(seed=0), eps="8/255", error="out of memory"))
    assert merge(into, store) == 2
    assert into.result(result.cell.id).seconds == 9
    assert {entry.cell.id for entry in into.results()} == {make_cell(seed=seed).id for seed in range(3)}
    assert np.array_equal(into.outcomes(make_cell(seed=0).id).survival, outcomes.survival)
    assert list(into.failures()) == [failure]
    assert [*into.cells.glob("*.failed.json")] == [into.cells / f"{failure.cell.id}.failed.json"]
    assert into.requested() == store.requested()
    assert merge(into, store) == 0

"""A store with one result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store

from ..conftest import MakeCell, MakeOutcomes, MakeResult

Filled = Callable[..., tuple[Store, Result, Outcomes]]


@pytest.fixture
def filled(tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Filled:
    """A store with one result."""

    def fill(seed: int = 0) -> tuple[Store, Result, Outcomes]:
        store = Store(tmp_path / "store")
        outcomes = make_outcomes(clean=[1, 1, 0, 1], robust=[0, 1, 0, 0])
        result, content = make_result(make_cell(seed=seed), outcomes)
        store.publish(result, content)
        return store, result, outcomes

    return fill

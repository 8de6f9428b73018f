from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.benchmarks.store.together import read_together, verified
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult
from .conftest import Filled


def test_outcomes_are_read_together(filled: Filled) -> None:
    """Of several results those that are intact, in their order; each damaged file has its line."""
    stored = [filled(seed) for seed in range(4)]
    results = [result for _, result, _ in stored]
    store = stored[0][0]
    lines: list[str] = []

    def read() -> list[int] | None:
        together = read_together(results, lambda _: store, damaged=lambda error: lines.append(str(error)))
        if together is None:
            return None
        intact, outcomes = together
        assert outcomes.perturbed.shape == (len(intact), *stored[0][2].perturbed.shape)
        for number, result in enumerate(intact):
            np.testing.assert_array_equal(outcomes.survival[number], store.outcomes(result.cell.id).survival)
        return [result.cell.seed for result in intact]

    assert read() == [0, 1, 2, 3]
    assert lines == []
    files = [store.path / "cells" / f"{result.cell.id}.{result.outcomes_sha256[:12]}.npz" for result in results]
    files[1].write_bytes(b"nothing")
    assert read() == [0, 2, 3]
    assert [str(files[1]) in line for line in lines] == [True]
    for file in files:
        file.write_bytes(b"nothing")
    assert read() is None


def test_of_outcomes_read_together_those_of_another_version_are_named(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """The others are read all the same; where all can be read and are of other images, the cells are named."""
    store, lines = Store(tmp_path), []
    results = []
    for seed, images in enumerate((2, 2, 3)):
        result, content = make_result(make_cell(seed=seed), make_outcomes(clean=[1] * images, robust=[0] * images))
        if seed == 1:
            content = b"nothing"
            result = result.model_copy(update={"outcomes_sha256": hashlib.sha256(content).hexdigest()})
        store.publish(result, content)
        results.append(result)

    def read(*numbers: int) -> list[Result] | None:
        together = read_together(
            [results[number] for number in numbers], lambda _: store, damaged=lambda error: lines.append(str(error))
        )
        return together[0] if together else None

    assert read(0, 1) == [results[0]]
    assert "was stored by another version" in lines.pop()
    assert read(0, 2) is None
    assert (
        f"the outcomes of the cells {results[0].cell.id}, {results[2].cell.id} are not of the same images"
        in lines.pop()
    )
    assert lines == []


def test_accuracies_must_be_those_of_the_outcomes(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """``store verify`` reads the outcomes: a result that states another accuracy is named, also beside honest ones."""
    store, named = Store(tmp_path / "store"), []
    outcomes = make_outcomes(clean=[1, 1, 0, 1], robust=[0, 1, 0, 0])
    for seed, stated in enumerate((0.25, 0.99)):
        result, content = make_result(make_cell(seed=seed), outcomes)
        summary = result.summary | {"robust_accuracy": stated, "robust_accuracy_high": 1.0}
        store.publish(result.model_copy(update={"summary": summary}), content)
    assert [result.cell.seed for result in verified(store, damaged=named.append)] == [0]
    assert [str(error).partition("json ")[2] for error in named] == [
        "states 0.99 as robust_accuracy, and its outcomes have 0.25: remove it, and run the same command again"
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("name", ["clean_survival", "survival", "distance", "l2", "linf"])
def test_outcomes_must_be_shares_and_distances(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, name: str, value: float
) -> None:
    """NaN would win every selection of the strongest attack; files with a matching hash are named, also beside honest ones."""
    store, named = Store(tmp_path / "store"), []
    outcomes = make_outcomes(clean=[1, 1, 0, 1], robust=[0, 1, 0, 0])
    changed = getattr(outcomes, name).copy()
    changed[..., 1] = value
    for seed, stored in enumerate((outcomes, replace(outcomes, **{name: changed}))):
        result, _ = make_result(make_cell(seed=seed), outcomes)
        content = stored.to_bytes()
        store.publish(result.model_copy(update={"outcomes_sha256": hashlib.sha256(content).hexdigest()}), content)
    assert [result.cell.seed for result in verified(store, damaged=named.append)] == [0]
    (line,) = map(str, named)
    assert f"'{name}' has values that are no " in line
    with pytest.raises(UserError, match=f"'{name}' has values that are no .*: remove "):
        store.outcomes(result.cell.id)

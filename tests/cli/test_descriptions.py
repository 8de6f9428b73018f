from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from robustbench_cli.benchmarks.store.records import Failure, RequestedCell
from robustbench_cli.cli.descriptions import describe_cell, describe_outcome, duration, failure_line, missing_line

from .conftest import small_cell as cell


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (89.4 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (47 * 3600 + 120, "47 h 2 min"),
        (48 * 3600, "2 days 0 h"),
        (49.6 * 3600, "2 days 2 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    """Seconds up to 90, minutes up to 90, hours up to 48."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("eps", "changes", "text"),
    [
        ("1/10", {}, "none pgd linf eps 1/10"),
        ("", {"norm": "l2", "eps": None}, "none pgd l2"),
        ("0.1", {"eot": 10, "seed": 3}, "none pgd linf eps 0.1 eot 10 seed 3"),
        ("0.1", {"eot": "exact"}, "none pgd linf eps 0.1 eot exact"),
    ],
)
def test_a_cell_is_described_by_what_differs(eps: str, changes: dict[str, Any], text: str) -> None:
    """One draw and the seed 0 are left out; the radius is as the user wrote it."""
    job: Any = SimpleNamespace(cell=cell(**changes), eps=eps)
    assert describe_cell(job) == text


def test_an_outcome_is_described_by_its_figures() -> None:
    """The accuracies, the time and the speed; the error of a failure; the reason of a skipped cell."""
    summary = {"clean_accuracy": 0.9, "robust_accuracy": 0.125}
    outcome: Any = SimpleNamespace(was_skipped=False, summary=summary, forwards=300, backwards=100, seconds=2.0)
    assert describe_outcome(outcome) == "clean 0.900, robust 0.125, 2.0 s, 200 passes/s"
    assert (
        describe_outcome(outcome, reused=True) == "clean 0.900, robust 0.125, read from the search of an earlier cell"
    )
    skipped: Any = SimpleNamespace(was_skipped=True)
    assert describe_outcome(skipped).startswith("skipped: ")
    failure = Failure(cell=cell(), eps="0.1", error="out of memory")
    assert describe_outcome(failure) == "failed: out of memory"
    assert failure_line(failure) == f"cell {failure.cell.id} (none pgd) failed: out of memory"


def test_a_missing_cell_is_one_line() -> None:
    """It names the data set and the model too."""
    requested = RequestedCell(cell=cell(seed=2), eps="1/10", checkpoint="model.safetensors")
    assert missing_line(requested) == (
        f"cell {requested.cell.id} (digits small-cnn none pgd linf eps 1/10 seed 2) is missing"
    )

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.store import Failure, RequestedCell
from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.session import (
    describe_cell,
    duration,
    failure_line,
    missing_line,
    raise_failures,
    warn_of_small_datasets,
)


def cell(**changes: Any) -> Cell:
    usual: dict[str, Any] = {
        "dataset": "digits",
        "data": "d" * 64,
        "n": 4,
        "model": "small-cnn",
        "checkpoint": "c" * 64,
        "defenses": (),
        "attack": MethodSpec(name="pgd", parameters={"steps": 40}),
        "norm": "linf",
        "eps": 0.1,
        "targeted": "no",
        "eot": 1,
        "repeats": 1,
        "seed": 0,
    }
    return Cell(**usual | changes)


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


def test_a_small_data_set_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each data set that has fewer images than the user wants."""
    warnings: list[str] = []
    monkeypatch.setattr(console, "warn", warnings.append)
    config = SuiteConfig.from_options(n=(600, 700))
    warn_of_small_datasets(config, {"digits": 500, "mnist": 700})
    assert warnings == ["--n 700: digits has 500 test images, and all of them are used"]
    warn_of_small_datasets(SuiteConfig.from_options(), {"digits": 500})
    assert len(warnings) == 1


def test_failures_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one line with the cell's id; no failure ends nothing."""
    monkeypatch.setattr(console.settings, "verbose", False)
    failure = Failure(cell=cell(), eps="0.1", error="out of memory")
    line = f"cell {failure.cell.id} (none pgd) failed: out of memory"
    assert failure_line(failure) == line
    raise_failures([])
    with pytest.raises(CellsFailed) as raised:
        raise_failures([failure])
    assert line in str(raised.value)


def test_a_missing_cell_is_one_line() -> None:
    """It names the data set and the model too."""
    requested = RequestedCell(cell=cell(seed=2), eps="1/10", checkpoint="model.safetensors")
    assert missing_line(requested) == (
        f"cell {requested.cell.id} (digits small-cnn none pgd linf eps 1/10 seed 2) is missing"
    )

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.execution.job import JobOptions
from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.plan import plan
from robustbench_cli.benchmarks.suites.stored_cells import SuiteCells, suite_cells
from robustbench_cli.benchmarks.training.model_cache import ModelCache

OPTIONS = JobOptions(store=Path(), data_dir=None, device="cpu", batch_size=None)


def _cache(dataset: str, recipe: dict[str, object], seed: int) -> ModelCache:
    return ModelCache(dataset=dataset, data_dir=None, device="cpu", seed=seed, recipe=recipe)


def _suite(tmp_path: Path, text: str) -> SuiteConfig:
    (tmp_path / "suite.yaml").write_text(text)
    return read_suite(str(tmp_path / "suite.yaml"))


def _cells(config: SuiteConfig) -> SuiteCells | None:
    return suite_cells(config, cache_for=_cache, seed=0, options=OPTIONS)


def test_cells_of_an_untrained_model_are_found_by_their_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another machine had trained the model: other weights, the same row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = _suite(tmp_path, "attacks: [fgsm]\nn: 20\neps: [0.1, 0.2]\n")
    first, second = (job.cell for job in plan(config, cache_for=_cache, seed=0).expected_jobs(OPTIONS))
    cells = _cells(config)
    assert cells is not None
    elsewhere = first.model_copy(update={"checkpoint": "a" * 64})
    assert elsewhere in cells
    assert first.model_copy(update={"eps": 0.3}) not in cells
    assert [*cells.absent([elsewhere])] == [second.id]


def test_a_suite_of_gates_alone_has_no_cells_of_its_own(tmp_path: Path) -> None:
    assert _cells(_suite(tmp_path, "gates: [robust_accuracy=0.4]\n")) is None

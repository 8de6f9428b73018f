from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.store.records import Failure
from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.reporting import Reporting
from robustbench_cli.cli.session import _report, warn_of_small_datasets

from .conftest import small_cell as cell


def test_a_small_data_set_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each data set that has fewer images than the user wants."""
    warnings: list[str] = []
    monkeypatch.setattr(console, "warn", warnings.append)
    config = SuiteConfig.from_options(n=(600, 700))
    warn_of_small_datasets(config, {"digits": 500, "mnist": 700})
    assert warnings == ["--n 700: digits has 500 test images, and all of them are used"]
    warn_of_small_datasets(SuiteConfig.from_options(), {"digits": 500})
    assert len(warnings) == 1


def test_failures_end_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one line with the cell's id; without a result only formats of pipelines have something to show."""
    monkeypatch.setattr(console.settings, "verbose", False)
    failure = Failure(cell=cell(), eps="0.1", error="out of memory")
    line = f"cell {failure.cell.id} (none pgd) failed: out of memory"
    for output_format, shown in (("table", False), ("junit", True)):
        with pytest.raises(CellsFailed) as raised:
            _report(tmp_path, [], [failure], Reporting(output_format))
        assert line in str(raised.value)
        assert ("out of memory" in capsys.readouterr().out) is shown

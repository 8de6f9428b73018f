from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.store.records import Failure
from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.reporting import Reporting
from robustbench_cli.cli.session import _report

from .conftest import small_cell as cell


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

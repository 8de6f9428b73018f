from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from robustbench_cli.benchmarks import comparison
from robustbench_cli.benchmarks.comparison import gpu_parts
from robustbench_cli.benchmarks.comparison.gpu import OutOfTime, main, measured, table, time_limit
from robustbench_cli.benchmarks.comparison.gpu_parts import PARTS, Row


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # in Foolbox
def test_it_runs_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """With tiny sizes it prints a table with the device, torch's version, seconds, ratios and goals."""
    assert main(["--device", "cpu", "--quick", "--only", "small", "hrs"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    header = rows[0]
    assert [row[0] for row in rows[2:]] == [
        "PGD 2, linf 1e-06, paper-cnn, 16 images",
        "... a step, 2 images",
        "... a step, 8 images",
        "HRS [5][5], an epoch of 64 images",
    ]
    for row in rows[2:5]:
        ours, plain = (float(row[header.index(name)]) for name in ("advdef", "plain loop"))
        assert float(row[header.index("ratio")].removesuffix(" x plain loop")) == pytest.approx(ours / plain, rel=0.02)
    assert rows[5][header.index("goal")].startswith(">= 5")


def test_without_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, and the code is 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"no GPU: torch {torch.__version__} sees no CUDA device here\n"


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the parts."""
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "cpu", "--only", "smal"])
    assert f"unknown part 'smal': known: {', '.join(PARTS)}" in capsys.readouterr().err


def test_a_missing_library_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the Python and the library, and the code is 2."""
    monkeypatch.delitem(sys.modules, gpu_parts.__name__)
    monkeypatch.delattr(comparison, "gpu_parts")
    monkeypatch.setitem(sys.modules, "robustbench_cli.benchmarks.comparison.gpu_networks", None)
    monkeypatch.delattr(comparison, "gpu_networks")
    assert main(["--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{sys.executable} has no robustbench_cli.benchmarks.comparison.gpu_networks: ")
    assert err.count("\n") == 1


def test_the_limits_leave_time_to_start() -> None:
    """All parts together take at most seven minutes."""
    assert sum(seconds for _, seconds in PARTS.values()) <= 7 * 60


def test_a_part_that_fails_keeps_its_rows() -> None:
    """The failure is one line, and the rows before it are in the table."""

    def fails() -> Iterator[Row]:
        yield Row(name="first")
        raise ValueError("of the second\nand more")

    rows: list[Row] = []
    assert measured(rows, fails, seconds=60) == "ValueError: of the second"
    assert [row.name for row in rows] == ["first"]


def test_a_part_out_of_time() -> None:
    """The limit interrupts what a part catches as an error, and is gone afterwards."""

    def endless() -> Iterator[Row]:
        while True:
            try:
                signal.raise_signal(signal.SIGALRM)
            except Exception:  # noqa: BLE001 - a library that catches everything
                yield Row(name="never")

    assert measured([], endless, seconds=60) == "it took more than 60 s"
    with pytest.raises(OutOfTime, match="it took more than 9 s"), time_limit(9):
        signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_goal_that_was_missed() -> None:
    """The table says so beside the goal."""
    row = Row(name="pgd", seconds={"advdef": 3.0, "plain loop": 2.0}, goal=1.15, note="a note")
    assert [cell.strip() for cell in table([row]).splitlines()[2].strip("|").split("|")] == [
        "pgd",
        "3",
        "2",
        "1.50 x plain loop",
        "<= 1.15 missed",
        "a note",
    ]

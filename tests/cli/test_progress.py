from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.store.records import Failure
from robustbench_cli.cli import console, progress
from robustbench_cli.cli.progress import JobProgress, TrainingBars
from robustbench_cli.defenses.base.training.trainer import TrainingProgress

from .conftest import small_cell


def running(cell: Any, *, device: str = "cpu", worker: int = 0) -> Any:
    """A job as a worker computes it."""
    return SimpleNamespace(cell=cell, eps="0.1", device=device, worker=worker)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of progress, where no terminal shows bars."""
    written: list[str] = []
    monkeypatch.setattr(console, "note", written.append)
    return written


def test_a_finished_training_is_one_line(lines: list[str]) -> None:
    """After its last epoch, with its note."""
    bars = TrainingBars(console.Progress(None))
    for epoch in (1, 2):
        state: Any = SimpleNamespace(name="block 1", epoch=epoch, epochs=2, loss=0.5, seconds=3.0, note="early stop")
        bars(state)
    assert lines == ["block 1: 2 epochs, loss 0.5000, 3.0 s; early stop"]


def test_steps_without_a_loss_are_one_line(lines: list[str]) -> None:
    """As what a defense chooses after its training."""
    bars = TrainingBars(console.Progress(None))
    for epoch in (1, 2):
        bars(TrainingProgress("choosing the test rate", epoch, 2, None, 6.54))
    assert lines == ["choosing the test rate: 6.5 s"]


def test_the_bar_of_all_cells_counts_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the passes per second; a cell of its own bar is no longer there."""
    texts: list[str | None] = []
    monkeypatch.setattr(console.Bar, "update", lambda bar, **changes: texts.append(changes.get("text")))
    jobs: list[Any] = [running(small_cell(seed=seed)) for seed in (0, 1)]
    shown = JobProgress(console.Progress(None), jobs)
    for job in jobs:
        shown.finished(job, Failure(cell=job.cell, eps="0.1", error="no way"))
    assert texts == ["cells, 1 failed, 0 passes/s", "cells, 2 failed, 0 passes/s"]


class Screen:
    """The bars of a terminal.

    Attributes:
        bars: The text of each bar with its steps; ``None`` where it is hidden.
    """

    def __init__(self) -> None:
        self.bars: list[tuple[str, int, int] | None] = []

    def add(self, text: str, *, total: int | None = None, visible: bool = True) -> Any:
        number = len(self.bars)
        self.bars.append((text, 0, total or 0) if visible else None)

        def show(text: str | None = None, *, completed: int = 0, total: int = 0, left: str | None = None) -> None:
            self.bars[number] = (text or "", completed, total)

        def hide() -> None:
            self.bars[number] = None

        return SimpleNamespace(update=show, restart=show, hide=hide, advance=lambda: None)

    def finished(self, line: str) -> None:
        """A terminal shows no lines."""

    @property
    def devices(self) -> list[tuple[str, int, int]]:
        """The visible lines of devices."""
        return [bar for bar in self.bars[1:] if bar is not None]


def test_a_terminal_names_workers_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines for a device at most; the passes per second of each of several devices, on a clock of our own."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen: Any = Screen()
    jobs = [running(small_cell(seed=seed), device=f"cuda:{seed // 3}", worker=seed + 1) for seed in range(4)]
    shown = JobProgress(screen, jobs)
    for job in jobs[:2]:
        shown.progress(job, 1)
    assert screen.devices == [
        ("cuda:0 worker 1: none pgd linf eps 0.1", 1, 4),
        ("cuda:0 worker 2: none pgd linf eps 0.1 seed 1", 1, 4),
    ]
    for job in jobs[2:]:
        shown.progress(job, 2)
    assert screen.devices == [
        ("cuda:0, 3 workers: 3 cells", 4, 12),
        ("cuda:1 worker 4: none pgd linf eps 0.1 seed 3", 2, 4),
    ]
    now[0] = 10.0
    summary = {"clean_accuracy": 1.0, "robust_accuracy": 0.5}
    result: Any = SimpleNamespace(was_skipped=False, summary=summary, forwards=20, backwards=10, seconds=10.0)
    shown.finished(jobs[0], result)
    assert screen.bars[0] == ("cells, 3 passes/s", 0, 0)
    assert [text for text, _, _ in screen.devices] == [
        "cuda:0 worker 2, 3 passes/s: none pgd linf eps 0.1 seed 1",
        "cuda:0 worker 3: none pgd linf eps 0.1 seed 2",
        "cuda:1 worker 4: none pgd linf eps 0.1 seed 3",
    ]
    # Two workers share a cell that is split; when it ends, both are free.
    shared = running(small_cell(seed=3), device="cuda:1", worker=5)
    shown.progress(shared, 3)
    assert len(screen.devices) == 4
    shown.finished(shared, result)
    assert len(screen.devices) == 2


def test_the_time_left_is_that_of_cells_of_the_same_attack(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and failures are collected; of two cells the second takes as long as the first, on a clock of our own."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    jobs: list[Any] = [running(small_cell(seed=seed)) for seed in (0, 1)]
    shown = JobProgress(console.Progress(None), jobs)
    summary = {"clean_accuracy": 1.0, "robust_accuracy": 0.5}
    result: Any = SimpleNamespace(was_skipped=False, summary=summary, forwards=10, backwards=10, seconds=10.0)
    now[0] = 10.0
    shown.finished(jobs[0], result)
    shown.progress(jobs[1], 2)
    failure = Failure(cell=jobs[1].cell, eps="0.1", error="no way")
    now[0] = 12.0
    shown.finished(jobs[1], failure)
    assert lines == [
        "none pgd linf eps 0.1: clean 1.000, robust 0.500, 10.0 s, 2 passes/s; 1 of 2, about 10 s left",
        "none pgd linf eps 0.1 seed 1: failed: no way; 2 of 2",
    ]
    assert shown.results == {jobs[0].cell.id: result}
    assert shown.failures == [failure]


def test_an_attack_of_another_library_is_announced(lines: list[str]) -> None:
    """It shows no progress within a batch, so a line says when it starts, and one follows each batch but the last."""
    spec = MethodSpec(name="torchattacks:PGD")
    job: Any = running(small_cell(attack=spec))
    shown = JobProgress(console.Progress(None), [job])
    for done in (0, 2, 4):
        shown.progress(job, done)
    start, batch = lines
    assert start.startswith("none torchattacks:PGD linf eps 0.1: started; ")
    assert batch == "none torchattacks:PGD linf eps 0.1: 2 of 4 images done"


def test_a_search_is_timed_once(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """A minimal-norm attack searches once for all radii: also a later command shows no time for what it reads."""
    attack = ("attack", "--attack", "deepfool", "--epochs", "1", "--n", "20", "--store", str(tmp_path / "runs"))
    first = advdef(*attack, "--eps", "0.1", "--eps", "0.2").err.splitlines()
    timed = [" passes/s; " in line for line in first if "robust" in line]
    assert timed == [True, False]
    (later,) = [line for line in advdef(*attack, "--eps", "0.3").err.splitlines() if "robust" in line]
    assert "read from the search of an earlier cell; 1 of 1" in later

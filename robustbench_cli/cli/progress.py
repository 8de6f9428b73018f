"""Shows how far trainings and jobs are."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from robustbench_cli.cli import console
from robustbench_cli.cli.descriptions import describe_cell, describe_outcome, duration

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.store.records import Failure, Result
    from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = ["JobProgress", "TrainingBars"]


class TrainingBars:
    """Shows the epochs of trainings, and the steps of what else a defense does.

    Args:
        progress: Where they are shown.
    """

    def __init__(self, progress: console.Progress) -> None:
        self._progress = progress
        self._bars: dict[str, console.Bar] = {}

    def __call__(self, state: TrainingProgress) -> None:
        """Called after each epoch or step."""
        if state.name not in self._bars:
            self._bars[state.name] = self._progress.add(state.name, total=state.epochs)
        self._bars[state.name].update(completed=state.epoch)
        if state.epoch == state.epochs:
            self._bars.pop(state.name).remove()
            note = f"; {state.note}" if state.note else ""
            epochs = f"{state.epochs} {'epoch' if state.epochs == 1 else 'epochs'}"
            done = "" if state.loss is None else f"{epochs}, loss {state.loss:.4f}, "
            self._progress.finished(f"{state.name}: {done}{state.seconds:.1f} s{note}")


class JobProgress:
    """Shows how far jobs are, and collects their results and failures.

    On a terminal there is a line for all cells, and for each device a line for each of its workers, or one line for more than
    two workers.

    Args:
        progress: Where they are shown.
        jobs: All jobs that run.
        searched: The names of the searches that the store has; see
            :func:`~robustbench_cli.benchmarks.execution.worker.lease_name`.
    """

    def __init__(self, progress: console.Progress, jobs: Sequence[Job], *, searched: Collection[str] = ()) -> None:
        self.results: dict[str, Result] = {}
        self.failures: list[Failure] = []
        self._progress = progress
        self._cells = progress.add("cells", total=len(jobs)) if jobs else None
        self._devices: dict[str, _DeviceLines] = {}
        # An engine may report ends from another thread than progress.
        self._lock = threading.Lock()
        self._started: set[str] = set()
        self._pace = _Pace(jobs)
        self._searched = set(searched)

    def progress(self, job: Job, done: int) -> None:
        """Shows how many images of a running job are done."""
        from robustbench_cli.benchmarks.execution.worker import is_foreign

        if job.cell.id not in self._started:
            self._started.add(job.cell.id)
            if is_foreign(job):
                name = describe_cell(job)
                self._progress.finished(f"{name}: started; an attack of another library reports progress by batch only")
        elif is_foreign(job) and done < job.cell.n:
            self._progress.finished(f"{describe_cell(job)}: {done} of {job.cell.n} images done")
        with self._lock:
            if job.device not in self._devices:
                self._devices[job.device] = _DeviceLines(job.device, self._progress)
            self._devices[job.device].record(job, done)
            self._show_devices()

    def _show_devices(self) -> None:
        """Shows the lines of all devices; the passes per second of each where there are several."""
        for device, lines in self._devices.items():
            lines.show(self._pace.rate_on(device) if len(self._devices) > 1 else 0)

    def finished(self, job: Job, outcome: Result | Failure) -> None:
        """Shows the result or failure of a job."""
        from robustbench_cli.benchmarks.execution.worker import lease_name
        from robustbench_cli.benchmarks.store.records import Failure

        search = lease_name(job)
        reused = search in self._searched
        if not isinstance(outcome, Failure):
            self._searched.add(search)
        self._pace.finished(job, outcome, reused=reused)
        if self._cells is not None:
            self._cells.advance()
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.results[job.cell.id] = outcome
        if self._cells is not None:
            failed = f", {len(self.failures)} failed" if self.failures else ""
            text = f"cells{failed}, {self._pace.rate:,.0f} passes/s"
            self._cells.update(text=text, left=f"about {duration(self._pace.seconds_left)}")
        with self._lock:
            for lines in self._devices.values():
                lines.end(job)
            self._show_devices()
        self._progress.finished(f"{describe_cell(job)}: {describe_outcome(outcome, reused=reused)}{self._pace}")


class _DeviceLines:
    """The lines of a device.

    Args:
        device: The torch device, as its jobs name it.
        progress: Where they are shown.
    """

    def __init__(self, device: str, progress: console.Progress) -> None:
        self._device = device
        self._jobs: dict[int | str, tuple[Job, int]] = {}
        self._bars = [progress.add(device, visible=False) for _ in range(2)]
        self._shown: list[object] = [None, None]

    def record(self, job: Job, done: int) -> None:
        """Records how many images of a job are done. A worker has one job at a time."""
        self._jobs[job.worker or job.cell.id] = job, done

    def end(self, job: Job) -> None:
        """Removes a job that has ended, for all workers that share it."""
        self._jobs = {key: entry for key, entry in self._jobs.items() if entry[0].cell.id != job.cell.id}

    def show(self, rate: float) -> None:
        """Shows what the workers compute.

        Args:
            rate: The passes per second on the device; 0 shows none.
        """
        jobs = list(self._jobs.items())
        groups = [jobs] if len(jobs) > len(self._bars) else [[entry] for entry in jobs]
        for index, bar in enumerate(self._bars):
            if index >= len(groups):
                bar.hide()
                self._shown[index] = None
                continue
            cells = {job.cell.id: (job, done) for _, (job, done) in groups[index]}
            text = self._text(groups[index], len(cells), rate if index == 0 else 0)
            done, total = sum(done for _, done in cells.values()), sum(job.cell.n for job, _ in cells.values())
            # The time of a bar begins again with each cell, but not with each of the many cells of one bar.
            content = [*cells] if len(groups[index]) == 1 else []
            if self._shown[index] == content:
                bar.update(text=text, completed=done, total=total)
            else:
                bar.restart(text, completed=done, total=total)
            self._shown[index] = content

    def _text(self, jobs: Sequence[tuple[int | str, tuple[Job, int]]], cells: int, rate: float) -> str:
        worker, (job, _) = jobs[0]
        speed = f", {rate:,.0f} passes/s" if rate else ""
        if len(jobs) > 1:
            return f"{self._device}, {len(jobs)} workers{speed}: {cells} {'cell' if cells == 1 else 'cells'}"
        return f"{self._device}{f' worker {worker}' if job.worker else ''}{speed}: {describe_cell(job)}"


class _Pace:
    """How fast cells are computed, and how long the rest will take: as long as cells of the same attack took.

    As text, the end of a line: the number of cells done and the time left.

    Args:
        jobs: All jobs that run.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._total = len(jobs)
        self._left = Counter(job.cell.attack.name for job in jobs)
        self._done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._started = self._latest = time.monotonic()
        self._passes: Counter[str] = Counter()

    def finished(self, job: Job, outcome: Result | Failure, *, reused: bool) -> None:
        """Counts a job that has ended; the passes of a reused search were made before."""
        # A failure has no count of passes.
        self._passes[job.device] += 0 if reused else getattr(outcome, "forwards", 0) + getattr(outcome, "backwards", 0)
        now = time.monotonic()
        name = job.cell.attack.name
        self._left[name] -= 1
        self._done[name] += 1
        # Where several jobs run at once, each counts for its share of the time.
        self._seconds[name] += now - self._latest
        self._latest = now

    @property
    def rate(self) -> float:
        """Passes per second, of all processes together."""
        return self._passes.total() / self._elapsed

    def rate_on(self, device: str) -> float:
        """Passes per second of the processes on a device."""
        return self._passes[device] / self._elapsed

    @property
    def _elapsed(self) -> float:
        return max(self._latest - self._started, 1e-3)

    @property
    def seconds_left(self) -> float:
        """The seconds that the rest will take."""
        average = (self._latest - self._started) / max(self._done.total(), 1)
        return sum(
            count * (self._seconds[name] / self._done[name] if self._done[name] else average)
            for name, count in self._left.items()
        )

    def __str__(self) -> str:
        done = self._done.total()
        left = f", about {duration(self.seconds_left)} left" if done < self._total else ""
        return f"; {done} of {self._total}{left}"

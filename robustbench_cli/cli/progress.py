"""Shows how far trainings and jobs are."""

from __future__ import annotations

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
        self._running: dict[str, console.Bar] = {}
        self._pace = _Pace(jobs)
        self._searched = set(searched)

    def progress(self, job: Job, done: int) -> None:
        """Shows how many images of a running job are done."""
        from robustbench_cli.benchmarks.execution.worker import is_foreign

        name = describe_cell(job)
        if job.cell.id not in self._running:
            self._running[job.cell.id] = self._progress.add(name, total=job.cell.n)
            if is_foreign(job):
                self._progress.finished(f"{name}: started; an attack of another library reports progress by batch only")
        elif is_foreign(job) and done < job.cell.n:
            self._progress.finished(f"{name}: {done} of {job.cell.n} images done")
        self._running[job.cell.id].update(completed=done)

    def finished(self, job: Job, outcome: Result | Failure) -> None:
        """Shows the result or failure of a job."""
        from robustbench_cli.benchmarks.execution.worker import lease_name
        from robustbench_cli.benchmarks.store.records import Failure

        if job.cell.id in self._running:
            self._running.pop(job.cell.id).remove()
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
            self._cells.update(text=f"cells{failed}, {self._pace.rate:,.0f} passes/s")
        self._progress.finished(f"{describe_cell(job)}: {describe_outcome(outcome, reused=reused)}{self._pace}")


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
        self._passes = 0

    def finished(self, job: Job, outcome: Result | Failure, *, reused: bool) -> None:
        """Counts a job that has ended; the passes of a reused search were made before."""
        # A failure has no count of passes.
        self._passes += 0 if reused else getattr(outcome, "forwards", 0) + getattr(outcome, "backwards", 0)
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
        return self._passes / max(self._latest - self._started, 1e-3)

    def __str__(self) -> str:
        done = self._done.total()
        average = (self._latest - self._started) / max(done, 1)
        seconds = sum(
            count * (self._seconds[name] / self._done[name] if self._done[name] else average)
            for name, count in self._left.items()
        )
        left = f", about {duration(seconds)} left" if done < self._total else ""
        return f"; {done} of {self._total}{left}"

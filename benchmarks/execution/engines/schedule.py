"""The order of jobs: a job that continues another waits for it, one that another process computes is retried later."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from robustbench_cli.benchmarks.evaluation.partial_results import LEAST_SHARED
from robustbench_cli.benchmarks.execution.job import Job

__all__ = ["JOB_PAUSE", "Schedule", "shard"]

JOB_PAUSE = 0.5
"""Seconds until a job is retried whose lease another process holds."""


class Schedule:
    """Jobs that have not ended, and the processes that compute them.

    Args:
        jobs: In the order in which they should run.
        helpers: Whether several processes may take the same job if it is split.
    """

    def __init__(self, jobs: Iterable[Job], *, helpers: bool = False) -> None:
        self._helpers = helpers
        self._waiting = {job.cell.id: job for job in jobs}
        self._split: dict[str, Job] = {}
        self._processes: Counter[str] = Counter()
        self._unsettled = set(self._waiting)
        self._not_before: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether any job has not ended."""
        return bool(self._unsettled)

    def take(self) -> Job | None:
        """The job that a process can compute now, or ``None`` if all wait or are running.

        A job that nobody computes comes first. Without one, it is the split job that has the fewest processes.
        """
        now = time.monotonic()
        job = next((job for job in self._waiting.values() if self._is_ready(job, now)), None)
        if job is None:
            running = [job for job in self._split.values() if self._is_ready(job, now) and self._has_room(job)]
            job = min(running, key=lambda job: self._processes[job.cell.id], default=None)
        if job is None:
            return None
        self._processes[job.cell.id] += 1
        self._waiting.pop(job.cell.id, None)
        if job.split and self._helpers:
            self._split[job.cell.id] = job
        return job

    def _is_ready(self, job: Job, now: float) -> bool:
        previous = job.previous.cell.id if job.previous is not None else None
        return previous not in self._unsettled and self._not_before.get(job.cell.id, now) <= now

    def _has_room(self, job: Job) -> bool:
        """Whether a split job may have a batch for one more process, which otherwise would be started for nothing."""
        return self._processes[job.cell.id] < job.cell.n / LEAST_SHARED

    def settle(self, job: Job) -> bool:
        """Records that a job has a result or has failed; ``False`` if that was known."""
        was_unsettled = job.cell.id in self._unsettled
        self._unsettled.discard(job.cell.id)
        self._split.pop(job.cell.id, None)
        return was_unsettled

    def is_settled(self, job: Job) -> bool:
        """Whether a job has a result or has failed."""
        return job.cell.id not in self._unsettled

    def postpone(self, job: Job) -> None:
        """Puts back a job of which other processes compute all that is left, after the others."""
        if self.is_settled(job):
            return
        self._not_before[job.cell.id] = time.monotonic() + JOB_PAUSE
        self._processes[job.cell.id] -= 1
        if self._processes[job.cell.id] == 0:
            self._split.pop(job.cell.id, None)
            self._waiting[job.cell.id] = job


def shard(jobs: Sequence[Job], number: int, of: int) -> list[Job]:
    """The share of the jobs of one of several machines; jobs that continue one another stay together.

    Args:
        jobs: All jobs, in the same order on every machine.
        number: The share, from 1.
        of: The number of shares.
    """
    first: dict[str, int] = {}
    chains = 0
    for job in jobs:
        if job.previous is not None and job.previous.cell.id in first:
            first[job.cell.id] = first[job.previous.cell.id]
        else:
            first[job.cell.id] = chains
            chains += 1
    return [job for job in jobs if first[job.cell.id] % of == number - 1]

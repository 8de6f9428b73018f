"""The order of jobs: a job that continues another waits for it, one that another process computes is retried later."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from robustbench_cli.benchmarks.execution.job import Job

__all__ = ["JOB_PAUSE", "Schedule", "shard"]

JOB_PAUSE = 0.5
"""Seconds until a job is retried whose lease another process holds."""


class Schedule:
    """Jobs that have not ended.

    Args:
        jobs: In the order in which they should run.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting = {job.cell.id: job for job in jobs}
        self._unsettled = set(self._waiting)
        self._not_before: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether any job has not ended."""
        return bool(self._unsettled)

    def take(self) -> Job | None:
        """The next job that can run now, or ``None`` if all wait or are running."""
        now = time.monotonic()
        for name, job in self._waiting.items():
            previous = job.previous.cell.id if job.previous is not None else None
            if previous not in self._unsettled and self._not_before.get(name, now) <= now:
                return self._waiting.pop(name)
        return None

    def settle(self, job: Job) -> None:
        """Records that a job has a result or has failed."""
        self._unsettled.discard(job.cell.id)

    def postpone(self, job: Job) -> None:
        """Puts back a job that another process is computing, after the others."""
        self._waiting[job.cell.id] = job
        self._not_before[job.cell.id] = time.monotonic() + JOB_PAUSE


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

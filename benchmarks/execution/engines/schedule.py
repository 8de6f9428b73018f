"""The order of jobs: those that go on from others wait for them, those that others compute are asked for later."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from robustbench_cli.benchmarks.execution.job import Job

__all__ = ["PAUSE", "Schedule", "shard"]

PAUSE = 0.5
"""Seconds until a job is asked for again that another process has claimed."""


class Schedule:
    """Jobs that are still to be run.

    Args:
        jobs: In the order in which they are to run, as far as that is possible.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting = {job.cell.id: job for job in jobs}
        self._unsettled = set(self._waiting)
        self._not_before: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether any job is not settled."""
        return bool(self._unsettled)

    def take(self) -> Job | None:
        """The next job that can run now, or ``None`` where all of them wait or are running."""
        now = time.monotonic()
        for name, job in self._waiting.items():
            goes_on_from = job.previous.cell.id if job.previous is not None else None
            if goes_on_from not in self._unsettled and self._not_before.get(name, now) <= now:
                return self._waiting.pop(name)
        return None

    def settle(self, job: Job) -> None:
        """A job that was taken has a result or has failed."""
        self._unsettled.discard(job.cell.id)

    def postpone(self, job: Job) -> None:
        """A job that was taken is being computed elsewhere: it comes again, after the others."""
        self._waiting[job.cell.id] = job
        self._not_before[job.cell.id] = time.monotonic() + PAUSE


def shard(jobs: Sequence[Job], number: int, of: int) -> list[Job]:
    """The share of jobs of one of several machines; jobs that go on from one another stay together.

    Args:
        jobs: All of them, in the same order on every machine.
        number: Which share, from 1 on.
        of: How many there are.
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

"""The engine that runs jobs one after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from robustbench_cli.benchmarks.execution.engines.schedule import PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import compute_if_free
from robustbench_cli.benchmarks.store.store import Failure, Result

__all__ = ["run"]


def run(
    jobs: Iterable[Job],
    *,
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
) -> None:
    """Runs jobs; a job that fails does not stop the others. While one is computed, the one before it is stored.

    Args:
        jobs: In the order in which they are to run, as far as that is possible.
        finished: Called with each job's stored result or failure, one after the other, in another thread.
        progress: Called during a job with the number of images done, when it begins with 0.

    Raises:
        UserError: The store cannot be read or written.
    """
    schedule = Schedule(jobs)

    def store(job: Job, publish: Callable[[], Result | Failure]) -> None:
        outcome = publish()
        schedule.settle(job)
        finished(job, outcome)

    with ThreadPoolExecutor(max_workers=1) as thread:
        storing: Future[None] | None = None
        while schedule:
            job = schedule.take()
            publish = None if job is None else compute_if_free(job, progress=partial(progress, job))
            if storing is not None:
                storing.result()
            elif job is None:
                # All that is left is computed by others.
                time.sleep(PAUSE)
            storing = None
            if job is not None and publish is not None:
                storing = thread.submit(store, job, publish)
            elif job is not None:
                schedule.postpone(job)
        if storing is not None:
            storing.result()

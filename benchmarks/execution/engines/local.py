"""The engine that runs jobs one after another in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from robustbench_cli.benchmarks.execution.engines.schedule import JOB_PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import compute_if_free
from robustbench_cli.benchmarks.store.records import Failure, Result

__all__ = ["run"]


def run(
    jobs: Iterable[Job],
    *,
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
) -> None:
    """Runs jobs; a job that fails does not stop the others. While a job is computed, the previous one is stored.

    Args:
        jobs: In the order in which they should run.
        finished: Called with each job's stored result or failure, from another thread, one call at a time.
        progress: Called during a job with the number of images done, first with 0.

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
                # Other processes are computing all that is left.
                time.sleep(JOB_PAUSE)
            storing = None
            if job is not None and publish is not None:
                storing = thread.submit(store, job, publish)
            elif job is not None:
                schedule.postpone(job)
        if storing is not None:
            storing.result()

"""The engine that runs jobs one after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from robustbench_cli.benchmarks.engines.schedule import PAUSE, Schedule
from robustbench_cli.benchmarks.store import Failure, Result
from robustbench_cli.benchmarks.suite import Job
from robustbench_cli.benchmarks.worker import work_if_free

__all__ = ["run"]


def run(
    jobs: Iterable[Job],
    *,
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
) -> None:
    """Runs jobs; a job that fails does not stop the others.

    Args:
        jobs: In the order in which they are to run, as far as that is possible.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done, when it begins with 0.

    Raises:
        UserError: The store cannot be read or written.
    """
    schedule = Schedule(jobs)
    while schedule:
        job = schedule.take()
        if job is None:
            # All that is left is computed by others.
            time.sleep(PAUSE)
            continue
        outcome = work_if_free(job, progress=partial(progress, job))
        if outcome is None:
            schedule.postpone(job)
        else:
            schedule.settle(job)
            finished(job, outcome)

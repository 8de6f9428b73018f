"""The engine that runs jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from robustbench_cli.benchmarks.store import Failure, Result
from robustbench_cli.benchmarks.suite import Job
from robustbench_cli.benchmarks.worker import work

__all__ = ["run"]


def run(
    jobs: Iterable[Job],
    *,
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
) -> None:
    """Runs jobs; a job that fails does not stop the others.

    Args:
        jobs: In the order in which they are to run.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done.
    """
    for job in jobs:
        finished(job, work(job, progress=lambda done, job=job: progress(job, done)))  # type: ignore[misc]

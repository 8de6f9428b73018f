"""The engine that runs jobs on a Ray cluster, or a Ray of this machine where there is no cluster: an optional extra."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from robustbench_cli.benchmarks.execution.engines.schedule import PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work_if_free
from robustbench_cli.benchmarks.store.store import Failure, Result, Store
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["run"]

RETRIES = 2
"""How often a job is begun again whose node or process was lost; one that fails by itself is not."""

JOBS_OF_A_PROCESS = 20
"""After so many a process is replaced by a new one, so that nothing adds up in its memory."""


def run(
    jobs: Iterable[Job],
    *,
    processes: int | None = None,
    per_gpu: int = 1,
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
    timeout: float | None = None,
) -> None:
    """Runs jobs; a job that fails, loses its node or takes too long does not stop the others.

    The nodes share the store, the checkpoints and the folder that the command was given in. Where ``RAY_ADDRESS`` names
    no cluster, a Ray of this machine is started and ended with the run.

    Args:
        jobs: In the order in which they are to run, as far as that is possible. One that is for a CUDA device gets a
            GPU.
        processes: How many there are in a Ray of this machine; one a CPU where not given.
        per_gpu: How many share a GPU.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done, when it begins with 0.
        timeout: Seconds after which a job is given up.

    Raises:
        UserError: Ray is not installed or does not answer, or the store cannot be read or written.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(
                num_cpus=None if address else processes,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise UserError(
                f"no Ray at RAY_ADDRESS={address}: {one_line(error)}; name one, or none for one here"
            ) from None
    schedule, tasks = Schedule(jobs), _tasks(ray, per_gpu)
    running: dict[Any, _Running] = {}
    try:
        while schedule:
            # Enough to keep every node at work; what waits is not handed out, so that it can still go elsewhere.
            while len(running) < 2 * _slots(ray, per_gpu) and (job := schedule.take()) is not None:
                running[_begin(tasks, job)] = _Running(job)
            if not running:
                # All that is left is computed by others.
                time.sleep(PAUSE)
                continue
            for answers in ray.wait(list(running), timeout=PAUSE)[0]:
                job = running[answers].job
                said = _hear(ray, answers, job)
                if isinstance(said, int):
                    running[answers].begin()
                    progress(job, said)
                    continue
                del running[answers]
                if isinstance(said, UserError):
                    raise said
                if said is None:
                    schedule.postpone(job)
                else:
                    schedule.settle(job)
                    finished(job, said)
            for answers in [answers for answers, each in running.items() if each.is_late(timeout)]:
                job = running.pop(answers).job
                ray.cancel(answers, force=True)
                schedule.settle(job)
                finished(job, _failed(job, f"it took longer than {timeout:g} s: give it more, or split it up"))
    finally:
        for answers in running:
            with suppress(Exception):
                ray.cancel(answers, force=True)
        if ours:
            ray.shutdown()


class _Running:
    """A job that was handed to Ray.

    Attributes:
        job: Itself.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._began: float | None = None

    def begin(self) -> None:
        """A process is at it."""
        self._began = self._began or time.monotonic()

    def is_late(self, timeout: float | None) -> bool:
        """Whether it has taken too long."""
        return timeout is not None and self._began is not None and time.monotonic() - self._began > timeout


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'advdef[ray]'") from None
    return ray


def _slots(ray: Any, per_gpu: int) -> int:
    there_are = ray.cluster_resources()
    return int(there_are.get("CPU", 1) + there_are.get("GPU", 0) * per_gpu)


def _tasks(ray: Any, per_gpu: int) -> dict[bool, Any]:
    """What Ray runs: on a share of a GPU, or on a CPU."""
    common = {"max_retries": RETRIES, "max_calls": JOBS_OF_A_PROCESS, "num_returns": "streaming"}
    return {
        True: ray.remote(num_cpus=0, num_gpus=1 / per_gpu, **common)(_serve),
        False: ray.remote(num_cpus=1, **common)(_serve),
    }


def _begin(tasks: dict[bool, Any], job: Job) -> Any:
    """Hands a job to Ray; what its process says of it comes in one answer after the other."""
    on_gpu = job.device.startswith("cuda")
    # Ray shows a process none but its own GPU.
    placed = job.model_copy(update={"device": "cuda" if on_gpu else job.device})
    return tasks[on_gpu].remote(placed, str(Path.cwd()))


def _hear(ray: Any, answers: Any, job: Job) -> int | Result | Failure | UserError | None:
    """What a job's process says next; a failure where it is lost, ``None`` where the job is to be asked for again."""
    try:
        said: int | Result | Failure | UserError | None = ray.get(next(answers))
    except StopIteration:
        # It was begun again after a loss, and ended in fewer answers than had been heard by then: the last of them, which
        # may be that another process has the job, took the place of one that nobody listens to any more.
        return None
    except ray.exceptions.RayError as error:
        return _failed(
            job, f"its process was lost, maybe for want of memory: give a smaller --batch-size ({one_line(error)})"
        )
    return said


def _failed(job: Job, reason: str) -> Failure:
    failure = Failure(cell=job.cell, eps=job.eps, error=reason)
    Store(job.store).publish_failure(failure)
    return failure


def _serve(job: Job, folder: str) -> Iterator[int | Result | Failure | UserError | None]:
    """Computes a job, and says how far it is: the images done, and last how it ended."""
    os.chdir(folder)
    said: SimpleQueue[int | Result | Failure | UserError | None] = SimpleQueue()

    def compute() -> None:
        try:
            said.put(work_if_free(job, progress=said.put))
        except UserError as error:
            said.put(error)

    threading.Thread(target=compute, daemon=True).start()
    while True:
        word = said.get()
        yield word
        if not isinstance(word, int):
            return

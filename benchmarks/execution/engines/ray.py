"""The engine that runs jobs on a Ray cluster, or on a local Ray where there is no cluster: an optional extra."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from robustbench_cli.benchmarks.execution.engines.schedule import JOB_PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work_if_free
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["run"]

RETRIES = 2
"""How often a job is started again after its node or process was lost; a job that fails is not."""

JOBS_PER_PROCESS = 20
"""A process is replaced after this many jobs, so that its memory does not grow."""

_Message = int | Result | Failure | UserError | None
"""A message about a job: images done, its result or failure, a store that cannot be used, or ``None`` if it must be retried."""


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

    The nodes share the store, the checkpoints and the current folder of the command. If ``RAY_ADDRESS`` names no
    cluster, a local Ray is started, and ended with the run.

    Args:
        jobs: In the order in which they should run. A job for a CUDA device gets a GPU.
        processes: The number of processes of a local Ray; one per CPU where not given.
        per_gpu: The number of processes that share a GPU.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done, first with 0.
        timeout: Time limit per job, in seconds.

    Raises:
        UserError: Ray is not installed or cannot be reached, or the store cannot be read or written.
    """
    with _connected(processes) as ray:
        cluster = _Cluster(ray, per_gpu, timeout)
        schedule = Schedule(jobs)
        try:
            while schedule:
                # Enough to keep every node busy; a job that waits here can still go elsewhere.
                while cluster.has_room() and (job := schedule.take()) is not None:
                    cluster.start(job)
                for job, message in cluster.messages():
                    if isinstance(message, int):
                        progress(job, message)
                    elif isinstance(message, UserError):
                        raise message
                    elif message is None:
                        schedule.postpone(job)
                    else:
                        schedule.settle(job)
                        finished(job, message)
        finally:
            cluster.cancel()


@contextmanager
def _connected(processes: int | None) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster, or to a local Ray that ends with the context."""
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'advdef[ray]'") from None
    starts_ray = not ray.is_initialized()
    if starts_ray:
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
                f"no Ray at RAY_ADDRESS={address}: {one_line(error)}; give its address, or unset it for a local Ray"
            ) from None
    try:
        yield ray
    finally:
        if starts_ray:
            ray.shutdown()


class _Running:
    """A job that Ray has.

    Attributes:
        job: The job.
        started: When a process began to compute it; ``None`` before.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started: float | None = None


class _Cluster:
    """The jobs that Ray is computing.

    Args:
        ray: The module.
        per_gpu: The number of processes that share a GPU.
        timeout: Time limit per job, in seconds.
    """

    def __init__(self, ray: Any, per_gpu: int, timeout: float | None) -> None:
        self._ray, self._per_gpu, self._timeout = ray, per_gpu, timeout
        self._running: dict[Any, _Running] = {}
        options = {"max_retries": RETRIES, "max_calls": JOBS_PER_PROCESS, "num_returns": "streaming"}
        self._on_gpu = ray.remote(num_cpus=0, num_gpus=1 / per_gpu, **options)(_serve)
        self._on_cpu = ray.remote(num_cpus=1, **options)(_serve)

    def has_room(self) -> bool:
        """Whether fewer jobs than twice the number of slots are running."""
        resources = self._ray.cluster_resources()
        slots = int(resources.get("CPU", 1) + resources.get("GPU", 0) * self._per_gpu)
        return len(self._running) < 2 * slots

    def start(self, job: Job) -> None:
        """Hands a job to Ray; its messages arrive as a stream."""
        is_on_gpu = job.device.startswith("cuda")
        # Ray shows a process only its own GPU.
        job_on_node = job.model_copy(update={"device": "cuda" if is_on_gpu else job.device})
        stream = (self._on_gpu if is_on_gpu else self._on_cpu).remote(job_on_node, str(Path.cwd()))
        self._running[stream] = _Running(job)

    def messages(self) -> Iterator[tuple[Job, _Message]]:
        """The next message of each job that has one; a failure of each job that exceeds the time limit."""
        if not self._running:
            # Other processes are computing all that is left.
            time.sleep(JOB_PAUSE)
            return
        for stream in self._ray.wait(list(self._running), timeout=JOB_PAUSE)[0]:
            running = self._running[stream]
            message = self._next(stream, running.job)
            if isinstance(message, int):
                running.started = running.started or time.monotonic()
            else:
                del self._running[stream]
            yield running.job, message
        for stream in [stream for stream, running in self._running.items() if self._is_late(running)]:
            job = self._running.pop(stream).job
            self._ray.cancel(stream, force=True)
            yield (
                job,
                _failed(job, f"time limit of {self._timeout:g} s exceeded: raise --timeout, or use fewer images"),
            )

    def cancel(self) -> None:
        """Ends all jobs."""
        for stream in self._running:
            with suppress(Exception):
                self._ray.cancel(stream, force=True)

    def _is_late(self, running: _Running) -> bool:
        if self._timeout is None or running.started is None:
            return False
        return time.monotonic() - running.started > self._timeout

    def _next(self, stream: Any, job: Job) -> _Message:
        """The next message of a job; a failure if its process is lost, ``None`` if it must be retried."""
        try:
            message: _Message = self._ray.get(next(stream))
        except StopIteration:
            # Ray started it again after a loss, and it ended in fewer messages than were read before. Its last message, which
            # may be that another process holds the lease, took the place of one that was read already.
            return None
        except self._ray.exceptions.RayError as error:
            return _failed(
                job, f"its process was lost, perhaps out of memory: give a smaller --batch-size ({one_line(error)})"
            )
        return message


def _failed(job: Job, reason: str) -> Failure:
    """Stores that a job failed."""
    failure = Failure(cell=job.cell, eps=job.eps, error=reason)
    Store(job.store).publish_failure(failure)
    return failure


def _serve(job: Job, folder: str) -> Iterator[_Message]:
    """Computes a job on a node, and yields its messages: the images done, and last its result.

    Args:
        job: The job.
        folder: The current folder of the command.
    """
    os.chdir(folder)
    messages: SimpleQueue[_Message] = SimpleQueue()

    def compute() -> None:
        try:
            messages.put(work_if_free(job, progress=messages.put))
        except UserError as error:
            messages.put(error)

    threading.Thread(target=compute, daemon=True).start()
    while True:
        message = messages.get()
        yield message
        if not isinstance(message, int):
            return

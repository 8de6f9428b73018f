"""The engine that runs jobs in several processes of this machine, each with a device of its own or a share of one."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

import torch

from robustbench_cli.benchmarks.devices import share_memory
from robustbench_cli.benchmarks.execution.engines.schedule import PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work_if_free
from robustbench_cli.benchmarks.store.store import Failure, Result, Store
from robustbench_cli.core.errors import UserError

__all__ = ["run"]

_GRACE = 10
"""Seconds that a process without a job may take to end."""

_Said = int | Result | Failure | UserError | None
"""What a process says of its job: images done, how it ended, that the store cannot be used, or that another one has it."""


def run(
    jobs: Iterable[Job],
    *,
    devices: Sequence[str],
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
    timeout: float | None = None,
) -> None:
    """Runs jobs; a job that fails, kills its process or takes too long does not stop the others.

    Args:
        jobs: In the order in which they are to run, as far as that is possible.
        devices: A torch device for each process; a device may be named several times.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done, when it begins with 0.
        timeout: Seconds after which a job that has begun is given up.

    Raises:
        UserError: The store cannot be read or written.
    """
    schedule = Schedule(jobs)
    sharing = Counter(devices)
    processes = [_Process(device, timeout, sharing=sharing[device]) for device in devices]
    try:
        while schedule:
            for process in processes:
                if process.job is None and (job := schedule.take()) is not None:
                    process.give(job)
            for job, said in _heard(processes):
                if isinstance(said, int):
                    progress(job, said)
                elif said is None:
                    schedule.postpone(job)
                elif isinstance(said, UserError):
                    raise said
                else:
                    schedule.settle(job)
                    finished(job, said)
    finally:
        for process in processes:
            process.end()


def _heard(processes: Sequence[_Process]) -> Iterator[tuple[Job, _Said]]:
    """What the processes say next, of which job."""
    busy = {process.connection: process for process in processes if process.job is not None}
    if not busy:
        # All that is left is computed by others.
        time.sleep(PAUSE)
    speaking = wait(list(busy), PAUSE)
    for connection, process in busy.items():
        if connection in speaking:
            yield process.hear()
        elif process.is_late():
            yield process.give_up(f"it took longer than {process.timeout:g} s: give it more, or split it up")


class _Process:
    """A process that computes one job after the other; it is started for the first, and again after it was killed.

    Attributes:
        job: What it is computing.
        timeout: Seconds that a job may take.
    """

    def __init__(self, device: str, timeout: float | None, *, sharing: int = 1) -> None:
        self.job: Job | None = None
        self.timeout = timeout
        self._device = device
        self._sharing = sharing
        self._started: tuple[multiprocessing.process.BaseProcess, Connection[Job, _Said]] | None = None
        self._began: float | None = None

    @property
    def connection(self) -> Connection[Job, _Said]:
        """To the process, which is started where there is none."""
        if self._started is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._device, self._sharing), daemon=True)
            process.start()
            # Were this end open here too, nobody would notice that a process has died.
            theirs.close()
            self._started = process, ours
        return self._started[1]

    def give(self, job: Job) -> None:
        """Lets it compute a job."""
        self.job, self._began = job, None
        self.connection.send(job.model_copy(update={"device": self._device}))

    def hear(self) -> tuple[Job, _Said]:
        """What it says next of its job, which is a failure where it has died."""
        assert self.job is not None
        job = self.job
        try:
            said = self.connection.recv()
        except (EOFError, OSError):
            return self.give_up("its process was killed, maybe for want of memory: give a smaller --batch-size")
        if isinstance(said, int):
            # A process takes seconds to start, which are not the job's.
            self._began = self._began or time.monotonic()
        else:
            self.job = None
        return job, said

    def is_late(self) -> bool:
        """Whether its job has taken too long."""
        return self.timeout is not None and self._began is not None and time.monotonic() - self._began > self.timeout

    def give_up(self, reason: str) -> tuple[Job, _Said]:
        """Ends the process, and publishes that its job failed."""
        assert self.job is not None
        job = self.job
        self.end()
        failure = Failure(cell=job.cell, eps=job.eps, error=reason)
        Store(job.store).publish_failure(failure)
        return job, failure

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        idle, self.job = self.job is None, None
        if self._started is None:
            return
        process, connection = self._started
        self._started = None
        connection.close()
        if idle:
            # It ends by itself, and cleans up behind it.
            process.join(_GRACE)
        process.kill()
        process.join()


def _serve(connection: Connection[_Said, Job], device: str, sharing: int) -> None:
    """Computes the jobs that come, until there are no more, on a device that so many processes share."""
    # Ctrl-C reaches every process of the terminal, and a cluster's SIGTERM every process of a job; what is to become of this
    # one, its parent decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    share_memory(torch.device(device), sharing)
    with suppress(EOFError, BrokenPipeError):
        while True:
            job = connection.recv()
            try:
                connection.send(work_if_free(job, progress=connection.send))
            except UserError as error:
                connection.send(error)

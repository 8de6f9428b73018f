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
from robustbench_cli.benchmarks.execution.engines.schedule import JOB_PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work_if_free
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.core.errors import UserError

__all__ = ["run"]

_GRACE = 10
"""Seconds that an idle process may take to end."""

_Message = int | Result | Failure | UserError | None
"""A process's message about its job: images done, its result or failure, a store that cannot be used, or ``None`` if another
process holds its lease."""


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
        jobs: In the order in which they should run.
        devices: A torch device for each process; several processes may share a device.
        finished: Called with each job's stored result or failure.
        progress: Called during a job with the number of images done, first with 0.
        timeout: Time limit per job, in seconds.

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
                    process.start(job)
            for job, message in _messages(processes):
                if isinstance(message, int):
                    progress(job, message)
                elif message is None:
                    schedule.postpone(job)
                elif isinstance(message, UserError):
                    raise message
                else:
                    schedule.settle(job)
                    finished(job, message)
    finally:
        for process in processes:
            process.end()


def _messages(processes: Sequence[_Process]) -> Iterator[tuple[Job, _Message]]:
    """The next messages of the processes, each with its job."""
    busy = {process.connection: process for process in processes if process.job is not None}
    if not busy:
        # Other processes are computing all that is left.
        time.sleep(JOB_PAUSE)
    ready = wait(list(busy), JOB_PAUSE)
    for connection, process in busy.items():
        if connection in ready:
            yield process.receive()
        elif process.is_late():
            yield process.fail(f"time limit of {process.timeout:g} s exceeded: raise --timeout, or use fewer images")


class _Process:
    """A process that computes one job after another; it is started for its first job, and again after it was killed.

    Attributes:
        job: The job that it is computing.
        timeout: Time limit per job, in seconds.
    """

    def __init__(self, device: str, timeout: float | None, *, sharing: int = 1) -> None:
        self.job: Job | None = None
        self.timeout = timeout
        self._device = device
        self._sharing = sharing
        self._process: tuple[multiprocessing.process.BaseProcess, Connection[Job, _Message]] | None = None
        self._job_started: float | None = None

    @property
    def connection(self) -> Connection[Job, _Message]:
        """The connection to the process, which is started if there is none."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._device, self._sharing), daemon=True)
            process.start()
            # With this end open here, a process that dies would not close the connection.
            theirs.close()
            self._process = process, ours
        return self._process[1]

    def start(self, job: Job) -> None:
        """Lets the process compute a job."""
        self.job, self._job_started = job, None
        self.connection.send(job.model_copy(update={"device": self._device}))

    def receive(self) -> tuple[Job, _Message]:
        """The next message about its job; a failure if the process has died."""
        assert self.job is not None
        job = self.job
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self.fail("its process was killed, perhaps out of memory: give a smaller --batch-size")
        if isinstance(message, int):
            # The seconds that a process takes to start do not count as the job's.
            self._job_started = self._job_started or time.monotonic()
        else:
            self.job = None
        return job, message

    def is_late(self) -> bool:
        """Whether its job has exceeded the time limit."""
        started = self._job_started
        return self.timeout is not None and started is not None and time.monotonic() - started > self.timeout

    def fail(self, reason: str) -> tuple[Job, _Message]:
        """Ends the process, and stores that its job failed."""
        assert self.job is not None
        job = self.job
        self.end()
        failure = Failure(cell=job.cell, eps=job.eps, error=reason)
        Store(job.store).publish_failure(failure)
        return job, failure

    def end(self) -> None:
        """Ends the process, even in the middle of a job."""
        is_idle, self.job = self.job is None, None
        if self._process is None:
            return
        process, connection = self._process
        self._process = None
        connection.close()
        if is_idle:
            # It ends by itself and releases what it holds.
            process.join(_GRACE)
        process.kill()
        process.join()


def _serve(connection: Connection[_Message, Job], device: str, sharing: int) -> None:
    """Computes the jobs that the parent sends, until it closes the connection.

    Args:
        connection: To the parent.
        device: A torch device.
        sharing: The number of processes on that device.
    """
    # Ctrl-C reaches every process of the terminal, and a cluster's SIGTERM every process of a job; the parent decides what
    # becomes of this one.
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

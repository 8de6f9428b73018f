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

from robustbench_cli.benchmarks.devices import use_share, worker_environment
from robustbench_cli.benchmarks.execution.engines.schedule import JOB_PAUSE, Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work_if_free
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.core.errors import UserError

__all__ = ["run"]

_GRACE = 10
"""Seconds that an idle process may take to end."""

_KILLED = "its process was killed, perhaps out of memory: give a smaller --batch-size"


class _Killed:
    """The message that a process no longer exists."""


_Message = int | Result | Failure | UserError | _Killed | None
"""A process's message about its job: images done, its result or failure, a store that cannot be used, its end, or ``None`` if
other processes hold the leases of all that is left."""


def run(
    jobs: Iterable[Job],
    *,
    devices: Sequence[str],
    finished: Callable[[Job, Result | Failure], None],
    progress: Callable[[Job, int], None],
    timeout: float | None = None,
) -> None:
    """Runs jobs; a job that fails, kills its process or takes too long does not stop the others.

    An idle process for which no job is left helps with one that is split. The batch of a process that was killed is attacked
    once more by another one.

    Args:
        jobs: In the order in which they should run.
        devices: A torch device for each process; several processes may share a device.
        finished: Called with each job, as the process computed it, and its stored result or failure.
        progress: Called during a job, as the process computes it, with the number of images done: first with 0, or with
            those of the stored batches of a split job.
        timeout: Time limit per job, in seconds.

    Raises:
        UserError: The store cannot be read or written.
    """
    sharing = Counter(devices)
    processes = [_Process(number, device, sharing=sharing[device]) for number, device in enumerate(devices, start=1)]
    running = _Run(Schedule(jobs, helpers=True), processes, _TimeLimit(timeout), finished, progress)
    try:
        while running.schedule:
            running.start_jobs()
            for job, message in running.messages():
                running.handle(job, message)
    finally:
        for process in processes:
            process.end()


class _Run:
    """The jobs of a run and the processes that compute them.

    Args:
        schedule: The jobs.
        processes: The processes.
        limit: The time limit per job.
        finished: See :func:`run`.
        progress: See :func:`run`.
    """

    def __init__(
        self,
        schedule: Schedule,
        processes: Sequence[_Process],
        limit: _TimeLimit,
        finished: Callable[[Job, Result | Failure], None],
        progress: Callable[[Job, int], None],
    ) -> None:
        self.schedule = schedule
        self._processes = processes
        self._limit = limit
        self._finished = finished
        self._progress = progress
        self._lost: Counter[str] = Counter()

    def start_jobs(self) -> None:
        """Gives each idle process a job, as long as there is one."""
        for process in self._processes:
            if process.job is None and (job := self.schedule.take()) is not None:
                process.start(job)

    def messages(self) -> Iterator[tuple[Job, _Message]]:
        """The next messages of the processes, each with its job."""
        busy = {process.connection: process for process in self._processes if process.job is not None}
        if not busy:
            # Other processes are computing all that is left.
            time.sleep(JOB_PAUSE)
        ready = wait(list(busy), JOB_PAUSE)
        for connection, process in busy.items():
            job = process.job
            # An earlier message may have ended the process.
            if job is not None and connection in ready:
                yield process.receive()
            elif job is not None and self._limit.is_over(job):
                process.end()
                reason = f"time limit of {self._limit.seconds:g} s exceeded: raise --timeout, or use fewer images"
                yield job, _published_failure(job, reason)

    def handle(self, job: Job, message: _Message) -> None:
        """Does what a message asks for.

        Raises:
            UserError: The message says that the store cannot be used.
        """
        if isinstance(message, UserError):
            raise message
        if message is None:
            self.schedule.postpone(job)
        elif isinstance(message, _Killed):
            self._lost[job.cell.id] += 1
            if job.split and self._lost[job.cell.id] == 1:
                # Its batches are stored but for one, which another process attacks.
                self.schedule.postpone(job)
            else:
                self._settle(job, _published_failure(job, _KILLED))
        elif not isinstance(message, int):
            self._settle(job, message)
        elif not self.schedule.is_settled(job):
            self._limit.begin(job)
            self._progress(job, message)

    def _settle(self, job: Job, outcome: Result | Failure) -> None:
        if self.schedule.settle(job):
            self._finished(job, outcome)
        if isinstance(outcome, Failure):
            # What other processes still compute of the job is of no use.
            for process in self._processes:
                if process.job is not None and process.job.cell.id == job.cell.id:
                    process.end()


def _published_failure(job: Job, reason: str) -> Failure:
    """Stores that a job failed."""
    failure = Failure(cell=job.cell, eps=job.eps, error=reason)
    Store(job.store).publish_failure(failure)
    return failure


class _TimeLimit:
    """The time limit of jobs. The seconds that a process takes to start do not count.

    Args:
        seconds: The time limit per job; ``None`` for none.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._started: dict[str, float] = {}

    def begin(self, job: Job) -> None:
        """Records that a process computes a job; the first one counts."""
        self._started.setdefault(job.cell.id, time.monotonic())

    def is_over(self, job: Job) -> bool:
        """Whether a job has exceeded the time limit."""
        started = self._started.get(job.cell.id)
        return self.seconds is not None and started is not None and time.monotonic() - started > self.seconds


class _Process:
    """A process that computes one job after another; it is started for its first job, and again after it was killed.

    Attributes:
        job: The job that it is computing, with its number and its device.
    """

    def __init__(self, number: int, device: str, *, sharing: int = 1) -> None:
        self.job: Job | None = None
        self._number = number
        self._device = device
        self._sharing = sharing
        self._process: tuple[multiprocessing.process.BaseProcess, Connection[Job, _Message]] | None = None

    @property
    def connection(self) -> Connection[Job, _Message]:
        """The connection to the process, which is started if there is none."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._device, self._sharing), daemon=True)
            with worker_environment():
                process.start()
            # With this end open here, a process that dies would not close the connection.
            theirs.close()
            self._process = process, ours
        return self._process[1]

    def start(self, job: Job) -> None:
        """Lets the process compute a job."""
        self.job = job.model_copy(update={"device": self._device, "worker": self._number})
        self.connection.send(self.job)

    def receive(self) -> tuple[Job, _Message]:
        """The next message about its job."""
        assert self.job is not None
        job = self.job
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return job, _Killed()
        if not isinstance(message, int):
            self.job = None
        return job, message

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
    use_share(torch.device(device), sharing)
    with suppress(EOFError, BrokenPipeError):
        while True:
            job = connection.recv()
            try:
                connection.send(work_if_free(job, progress=connection.send))
            except UserError as error:
                connection.send(error)

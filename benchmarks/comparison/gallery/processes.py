"""Calls a function for many arguments, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from robustbench_cli.core.errors import one_line

__all__ = ["Failed", "in_processes"]

T = TypeVar("T")
R = TypeVar("R")

_LONGEST_WAIT = 3600.0
"""In seconds; the operating system accepts no infinite time."""


@dataclass(frozen=True)
class Failed:
    """The result of a call that raised an error, or whose process ended before it returned.

    Attributes:
        reason: In one line.
    """

    reason: str


def in_processes(
    function: Callable[[T], R],
    arguments: Sequence[T],
    *,
    jobs: int,
    deadline: float = float("inf"),
    preload: Sequence[str] = (),
) -> Iterator[tuple[T, R | Failed]]:
    """Yields each argument with its result as soon as it is there.

    A process has one thread, and begins as a copy of one that has imported the function's module. Neither the state that a call
    leaves nor its crash affects another call.

    Args:
        function: Picklable, like the arguments and its results, which are never ``None``.
        arguments: In the order in which the calls begin.
        jobs: The number of processes at a time.
        deadline: When the calls that still run are killed, and no more begin, on the clock of :func:`time.monotonic`.
        preload: Other modules that are imported once for all processes.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *preload])
    remaining = list(reversed(arguments))
    running: dict[Any, tuple[Any, T]] = {}
    try:
        while (remaining or running) and time.monotonic() < deadline:
            while remaining and len(running) < jobs:
                argument = remaining.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_send, args=(theirs, function, argument), daemon=True)
                process.start()
                # If this end stayed open here, the death of the process would not close the connection.
                theirs.close()
                running[ours] = process, argument
            ready = wait(list(running), min(max(deadline - time.monotonic(), 0), _LONGEST_WAIT))
            for connection in [connection for connection in running if connection in ready]:
                process, argument = running.pop(connection)
                result: R | Failed | None = None
                with suppress(EOFError), connection:
                    result = connection.recv()
                process.join()
                yield (
                    argument,
                    Failed(f"its process ended with exit code {process.exitcode}") if result is None else result,
                )
    finally:
        for connection, (process, _) in running.items():
            connection.close()
            process.kill()
            process.join()


def _send(connection: Connection[R | Failed, None], function: Callable[[T], R], argument: T) -> None:
    """Sends the result of a call."""
    torch.set_num_threads(1)
    result: R | Failed
    try:
        result = function(argument)
    except Exception as error:  # noqa: BLE001 - one failure must not end the others
        result = Failed(one_line(error))
    connection.send(result)

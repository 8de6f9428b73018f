"""Checks and measures everything on one GPU in at most seven minutes: ``python -m robustbench_cli.benchmarks.comparison.gpu``.

It needs no network, and no data. It is a program of its own, because the others import what a GPU machine may not have.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from robustbench_cli.benchmarks.comparison.tables import markdown

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.comparison.gpu_parts import Row

__all__ = ["OutOfTime", "main", "measured", "table", "time_limit"]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the parts, and prints their rows and what failed.

    Args:
        words: The command line; that of the process by default.

    Returns:
        0; 1 if a part failed; 2 if there is no such device, or a library is missing.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="the device (cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the program on a CPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some parts alone, such as attacks or small (all)")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 2
    try:
        # It imports attacks and defenses, and so what a GPU machine may lack: the line above comes first.
        from robustbench_cli.benchmarks.comparison.gpu_parts import PARTS, Sizes
    except ModuleNotFoundError as missing:
        print(f"{sys.executable} has no {missing.name}: install it, or put its wheel on PYTHONPATH", file=sys.stderr)
        return 2
    if unknown := sorted({*(options.only or ())} - {*PARTS}):
        parser.error(f"unknown part '{unknown[0]}': known: {', '.join(PARTS)}")

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}\n")
    sizes = Sizes(images=16, steps=2, cw=(2, 3), training=64, pixels=32, turns=1) if options.quick else Sizes()
    rows: list[Row] = []
    failures: list[str] = []
    for name in options.only or PARTS:
        run, seconds = PARTS[name]
        limit = seconds if device.type == "cuda" else 10 * seconds
        error = measured(rows, partial(run, sizes, device), seconds=limit)
        if error is not None:
            failures.append(f"{name} failed: {error}")
            print(failures[-1], flush=True)
    print(table(rows))
    return 1 if failures else 0


def measured(rows: list[Row], run: Callable[[], Iterator[Row]], *, seconds: int) -> str | None:
    """Adds the rows of a part, those before its failure included, and returns the failure in one line.

    Args:
        rows: The rows so far.
        run: The part.
        seconds: Its time limit.
    """
    try:
        with time_limit(seconds):
            rows.extend(_printed(run()))
    except OutOfTime as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts go on
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def _printed(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        print(f"done: {row.name}{f': {row.note}' if row.note else ''}", file=sys.stderr, flush=True)
        yield row


class OutOfTime(BaseException):
    """A part took longer than it may."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises :class:`OutOfTime` in this thread, the main one, after so many seconds.

    Args:
        seconds: The limit.
    """

    def stop(*_: object) -> None:
        raise OutOfTime(f"it took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown: the seconds of each program, the ratio, its goal, and what was found.

    Args:
        rows: The measurements.
    """
    programs = [*dict.fromkeys(name for row in rows for name in row.seconds)]
    lines = []
    for row in rows:
        ratio, sign = row.ratio, ">=" if row.faster else "<="
        reached = {None: "", True: "", False: " missed"}[row.reached]
        lines.append(
            [
                row.name,
                *(f"{row.seconds[name]:.4g}" if name in row.seconds else "" for name in programs),
                "" if ratio is None else f"{ratio:.2f} x {row.over}",
                "" if row.goal is None else f"{sign} {row.goal:g}{reached}",
                row.note,
            ]
        )
    return markdown(("seconds", *programs, "ratio", "goal", "found"), lines)


if __name__ == "__main__":
    sys.exit(main())

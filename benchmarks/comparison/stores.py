"""The processor time and the memory of commands on large stores, on large suites and at their start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from robustbench_cli.benchmarks.comparison.simulated_store import CELLS_OF_MODEL, simulate_store
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.core.errors import UserError

__all__ = ["Usage", "compare_stores", "usage"]

_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""Runs a command from a small process: the memory of a large one would count as the command's."""

_IMAGES = 1000
"""The images of each result in a store."""

_SUITE = {
    "dataset": "digits",
    "model": "small-cnn",
    "n": 100,
    "defenses": ["none", "hrs", "gaussian-noise", "pgd-at", "jpeg"],
    "attacks": ["fgsm", "pgd", "cw-pgd", "mi-fgsm", "di-fgsm", "apgd-ce", "apgd-dlr", "apgd-t", "square", "fab-t"],
    "eps": [number / 100 for number in range(1, 21)],
    "seeds": [*range(20)],
}
"""A suite of 20,000 cells."""


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: Processor time of all threads.
        memory: The most memory at once, in MB.
    """

    seconds: float
    memory: float


def compare_stores(*, cells: Sequence[int], turns: int) -> None:
    """Prints what commands take on simulated stores, what a plan of 20,000 cells takes, and what a start takes.

    Args:
        cells: The numbers of results in the stores.
        turns: Runs of each command; the one with the least processor time counts.

    Raises:
        UserError: A number of results is no multiple of those of a model.
    """
    for number in cells:
        if number < CELLS_OF_MODEL or number % CELLS_OF_MODEL:
            raise UserError(f"--cells is {number}: give multiples of {CELLS_OF_MODEL}, the results of a model")
    print(f"processor seconds: the least of {turns} runs; stores have {_IMAGES:,} images per cell", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*_at_start(Path(folder), turns), *_of_suite(Path(folder), turns)]
        for number in cells:
            rows += _on_store(Path(folder), number, turns)
    print(f"\n{markdown(('command', 'seconds', 'MB'), rows)}")


def usage(command: Sequence[str], *, turns: int = 1, before: Callable[[], object] = lambda: None) -> Usage:
    """What a command takes in the run with the least processor time.

    Args:
        command: The program and its arguments.
        turns: The number of runs.
        before: Is called before each run.

    Raises:
        RuntimeError: The command failed.
    """
    runs = []
    for _ in range(turns):
        before()
        measured = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _MEASURED, *command], check=True, capture_output=True, text=True
        )
        code, seconds, kilobytes = measured.stdout.split()
        if code != "0":
            raise RuntimeError(f"exit code {code}: {' '.join(command)}")
        runs.append(Usage(seconds=float(seconds), memory=float(kilobytes) / 1000))
    return min(runs, key=lambda run: run.seconds)


def _advdef(*arguments: str | Path | int) -> list[str]:
    return [sys.executable, "-m", "robustbench_cli", *map(str, arguments)]


def _row(name: str, used: Usage) -> tuple[str, str, str]:
    return name, f"{used.seconds:.2f}", f"{used.memory:.0f}"


def _at_start(folder: Path, turns: int) -> Iterator[tuple[str, str, str]]:
    """What the import of torch takes, and an attack whose result is stored."""
    attack = _advdef("attack", "--defense", "none", "--attack", "fgsm", "--n", 20, "--store", folder / "attacked")
    usage(attack)
    yield _row("import torch", usage([sys.executable, "-c", "import torch"], turns=turns))
    yield _row("attack, stored", usage(attack, turns=turns))


def _of_suite(folder: Path, turns: int) -> Iterator[tuple[str, str, str]]:
    """What the plan of a large suite takes."""
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump(_SUITE), encoding="utf-8")
    command = _advdef("sweep", suite, "--dry-run", "--store", folder / "planned")
    yield _row("sweep --dry-run, 20,000 cells", usage(command, turns=turns))


def _on_store(folder: Path, cells: int, turns: int) -> Iterator[tuple[str, str, str]]:
    """What commands take on a store of some cells."""
    store, into = folder / f"{cells}", folder / "into"
    simulate_store(store, cells=cells, images=_IMAGES)
    commands = {
        "report --format csv": _advdef("report", store, "--format", "csv"),
        "report": _advdef("report", store),
        "store verify": _advdef("store", "verify", store),
        "store merge": _advdef("store", "merge", store, into),
    }
    for name, command in commands.items():
        used = usage(command, turns=turns, before=lambda: shutil.rmtree(into, ignore_errors=True))
        yield _row(f"{name}, {cells:,} cells", used)
    shutil.rmtree(store)

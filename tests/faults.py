"""Injects the faults of servers into sweeps, and checks that no result is lost or wrong.

    python tests/faults.py --kills 50 --processes 4 --times 10

Each fault hits a sweep at a random moment, several times, and the sweep must end with the expected exit code. Then the
same command runs without the fault. Every stored file must still be there, byte for byte, and every cell must be there
once, with the outcomes of an undisturbed sweep. The results are printed as a table.

File system faults are injected by an audit hook, where Python opens a file of the store in the affected process.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.store.leftovers import leftovers
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.cli.main import main

KILLED = """
dataset: digits
n: {images}
defenses: [none, gaussian-noise]
attacks: [fgsm, {{name: pgd, steps: 10}}, {{name: fmn, steps: 10}}, {{suite: quick}}]
eps: [0.1, 0.2]
seeds: {seeds}
train: {{epochs: 2}}
"""

FAULTY = """
dataset: digits
n: 20
defenses: {checkpoint: model.safetensors}
attacks: [fgsm, {name: pgd, steps: 5}, {name: fmn, steps: 5}, 'own.py:Noted']
eps: [0.05, 0.1]
seeds: [0, 1]
"""

OWN = """
import os, time
from robustbench_cli.attacks.fgsm import FGSM

class Noted(FGSM):
    def run(self, source, images, labels, threat, random):
        with open("notes", "a") as notes:
            notes.write(f"{float(threat.eps.max())} {int(random.integers(2**30)[0])}\\n")
        time.sleep(float(os.environ.get("LASTS", 0)))
        if os.path.exists("hang"):
            os.remove("hang")
            time.sleep(600)
        return super().run(source, images, labels, threat, random)
"""
"""An attack that records its runs. It sleeps for ``LASTS`` seconds, or hangs once where the file ``hang`` exists."""

PRELOADED = (
    "pandas",
    "robustbench_cli.attacks.cw_pgd",
    "robustbench_cli.attacks.fgsm",
    "robustbench_cli.attacks.fmn",
    "robustbench_cli.attacks.pgd",
    "robustbench_cli.benchmarks.execution.engines.local",
    "robustbench_cli.benchmarks.models.small_cnn",
    "robustbench_cli.benchmarks.reports.rows",
    "robustbench_cli.benchmarks.suites.plan",
    "robustbench_cli.cli.commands.sweep",
    "robustbench_cli.cli.commands.train",
    "robustbench_cli.cli.session",
    "robustbench_cli.cli.tables",
    "robustbench_cli.defenses.gaussian_noise",
    "rich.table",
    # What torch.optim imports.
    "torch._dynamo",
)
"""Modules that every sweep imports. This process imports them once, so that its copies need not."""

OnAccess = Callable[[str, str], None]
"""Called with ``read``, ``write`` or ``remove`` and the path, before a file of a store is accessed. It may sleep, or raise
the error of a file system."""


@dataclass
class Ended:
    """The end of a process: its exit code and the lines of its output."""

    code: int
    lines: list[str]


@dataclass
class Row:
    """A row of the table."""

    fault: str
    times: int
    ended: str
    cells: int


def _share_measured_layouts(folder: Path, store: str) -> None:
    """Lets all cache folders share the layouts that were measured: a busy machine may measure another, which rounds otherwise."""
    measured = folder / f"{store}-cache" / "advdef" / "passes"
    measured.parent.mkdir(parents=True, exist_ok=True)
    (folder / "passes").mkdir(exist_ok=True)
    with suppress(FileExistsError):
        measured.symlink_to(folder / "passes")


def start(folder: Path, store: str, *command: str, on_access: OnAccess | None = None, lasts: float = 0.0) -> int:
    """Starts a process that sweeps ``suite.yaml`` in a folder. Its output goes to ``PROCESS.log``.

    The process is a fork of this one, which must not compute anything: torch's threads do not survive a fork.

    Args:
        folder: The working directory.
        store: The name of the store in it, and of the cache folder.
        command: Another command to run instead.
        on_access: Called before each access to a file of the store.
        lasts: Seconds that the recording attack takes.

    Returns:
        The process id.
    """
    process = os.fork()
    if process:
        return process
    os.chdir(folder)
    _share_measured_layouts(folder, store)
    os.environ |= {"XDG_CACHE_HOME": str(folder / f"{store}-cache"), "LASTS": str(lasts)}
    # A process that hangs is killed.
    signal.alarm(300)
    # A shell that starts this in the background makes it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if on_access is not None:
        sys.addaudithook(_audit_hook(on_access, store))
    os._exit(main([*(command or ("sweep", "suite.yaml")), "--store", store]))


def _audit_hook(on_access: OnAccess, store: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook of Python that reports accesses to the files of a store."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in {"open", "os.mkdir", "os.rename", "os.remove", "os.utime"}:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if path.startswith(store):
            reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            on_access("read" if reads else "remove" if event == "os.remove" else "write", path)

    return hook


def end(folder: Path, process: int) -> Ended:
    """Waits for a process to end."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(code, (folder / f"{process}.log").read_text().splitlines())


def compare(store: Store, reference: Store) -> int:
    """Requires that a store has the same cells with the same outcomes as another one.

    Args:
        store: The store to check.
        reference: The store of an undisturbed sweep.

    Returns:
        The number of cells.
    """
    cells = {result.cell.id: result for result in store.results()}
    expected = {result.cell.id: result for result in reference.results()}
    require(set(cells) == set(expected), f"{len(cells)} cells of {len(expected)}")
    require(not list(store.failures()), "a cell has failed")
    for cell_id, result in expected.items():
        for field in ("cell", "eps", "summary", "flags", "forwards", "backwards"):
            require(getattr(cells[cell_id], field) == getattr(result, field), f"{cell_id}: {field} differs")
        ours, theirs = vars(store.outcomes(cell_id)), vars(reference.outcomes(cell_id))
        require(all(np.array_equal(ours[name], theirs[name]) for name in theirs), f"{cell_id}: outcomes differ")
    return len(cells)


def stored(store: Path) -> dict[Path, bytes]:
    """The content of all result files in a store, those of searches among them."""
    return {path: path.read_bytes() for path in store.glob("**/cells/*.json") if ".failed." not in path.name}


def require(holds: bool, message: str) -> None:
    """Ends the program with a message where a condition does not hold."""
    if not holds:
        sys.exit(f"faults: {message}")


class Faults:
    """The faults. Each is a method that returns its row of the table.

    Args:
        folder: An empty folder.
        times: Repetitions of each fault.
        chance: The random numbers for the moments.
    """

    def __init__(self, folder: Path, times: int, chance: random.Random) -> None:
        self.folder = folder
        self.times = times
        self.chance = chance
        (folder / "own.py").write_text(OWN)
        (folder / "suite.yaml").write_text(FAULTY)
        for name, seed in (("model", "0"), ("other", "1")):
            command = ("train", "--epochs", "4", "--seed", seed, "-o", f"{name}.safetensors")
            self.ended("model", start(folder, "model", *command), code=0)
        self.ended("alone", start(folder, "alone"), code=0)
        self.writes = self._count_writes()

    def _count_writes(self) -> int:
        """The number of writes of an undisturbed sweep."""
        count = self.folder / "writes"

        def on_access(what: str, path: str) -> None:
            if what == "write":
                with count.open("a") as file:
                    file.write(".")

        self.ended("counted", start(self.folder, "counted", on_access=on_access), code=0)
        return len(count.read_text())

    def ended(self, store: str, process: int, *, code: int, line: str = "") -> Ended:
        """Waits for a process and requires its exit code, no traceback, and a line in its output."""
        ended = end(self.folder, process)
        output = "\n".join(ended.lines)
        require(ended.code == code, f"{store}: a sweep ended with {ended.code} and not with {code}:\n{output}")
        require("Traceback" not in output, f"{store}: a sweep ended with a traceback:\n{output}")
        require(line in output, f"{store}: the output lacks '{line}':\n{output}")
        return ended

    def resumed(self, store: str) -> int:
        """Runs the same command without the fault, and requires that it completes the sweep and loses nothing.

        Returns:
            The number of cells.
        """
        before = stored(self.folder / store)
        self.ended(store, start(self.folder, store), code=0)
        after = stored(self.folder / store)
        require(all(after.get(path) == content for path, content in before.items()), f"{store}: a result was lost")
        return compare(Store(self.folder / store), Store(self.folder / "alone"))

    def disk_full(self) -> Row:
        cells = 0
        for number in range(self.times):
            store = f"full-{number}"
            left = self.chance.randrange(self.writes // 2)

            def on_access(what: str, path: str) -> None:
                nonlocal left
                left -= what == "write"
                if what == "write" and left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

            self.ended(store, start(self.folder, store, on_access=on_access), code=2, line="No space left on device")
            cells += self.resumed(store)
        return Row("disk full", self.times, "2, one line", cells)

    def read_only(self) -> Row:
        def on_access(what: str, path: str) -> None:
            if what != "read":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

        cells = 0
        for number in range(self.times):
            store = f"read-only-{number}"
            shutil.copytree(self.folder / "alone", self.folder / store)
            for path in self.chance.sample(sorted((self.folder / store / "cells").glob("*.json")), 4):
                path.unlink()
            before = stored(self.folder / store)
            self.ended(store, start(self.folder, store, on_access=on_access), code=2, line="Read-only file system")
            require(stored(self.folder / store) == before, f"{store}: changed")
            status = self.ended(
                store, start(self.folder, store, "sweep", "suite.yaml", "--status", on_access=on_access), code=0
            )
            require(status.lines[0] == "16 cells: 12 done, 4 missing", f"{store}: {status.lines}")
            cells += self.resumed(store)
        return Row("store read-only", self.times, "2, one line; --status works", cells)

    def slow_file_system(self) -> Row:
        def on_access(what: str, path: str) -> None:
            time.sleep(0.01 * random.random())

        cells = 0
        for number in range(self.times):
            store = f"slow-{number}"
            cells += self._two_share(store, on_access=on_access)
        return Row("slow file system, 2 processes", self.times, "0, no cell run twice", cells)

    def clock_jumps(self) -> Row:
        cells = 0
        for number in range(self.times):
            store = f"clock-{number}"

            def jump(store: str = store) -> None:
                for path in (self.folder / store / "claims").glob("[!.]*"):
                    then = time.time() + self.chance.choice([-1, 1]) * self.chance.uniform(0, 1e6)
                    try:
                        os.utime(path, (then, then))
                    except FileNotFoundError:
                        continue

            cells += self._two_share(store, lasts=0.3, meanwhile=jump)
        return Row("clocks jump, 2 processes", self.times, "0, no cell run twice", cells)

    def _two_share(
        self,
        store: str,
        *,
        on_access: OnAccess | None = None,
        lasts: float = 0.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> int:
        """Runs two processes on one store, and requires that no cell is run twice. Returns the number of cells."""
        notes = self.folder / "notes"
        notes.unlink(missing_ok=True)
        alive = {start(self.folder, store, on_access=on_access, lasts=lasts) for _ in range(2)}
        for process in alive:
            while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                meanwhile()
                time.sleep(0.02)
            self.ended(store, process, code=0)
        twice = [line for line, times in Counter(notes.read_text().splitlines()).items() if times > 1]
        require(not twice, f"{store}: {len(twice)} cells were run twice")
        return self.resumed(store)

    def changed_checkpoint(self) -> Row:
        cells = 0
        for number in range(self.times):
            store = f"checkpoint-{number}"
            shutil.copy(self.folder / "model.safetensors", self.folder / "backup")

            def on_access(what: str, path: str) -> None:
                # The first lease: the cells are planned by then, and no model is loaded.
                if "/claims/" in path:
                    shutil.copy(self.folder / "other.safetensors", self.folder / "model.safetensors")

            ended = self.ended(store, start(self.folder, store, on_access=on_access), code=3, line="has changed")
            require(sum("advdef: error: cell" in line for line in ended.lines) == 16, f"{store}: {ended.lines}")
            require(not stored(self.folder / store), f"{store}: a cell of another model")
            shutil.move(self.folder / "backup", self.folder / "model.safetensors")
            cells += self.resumed(store)
        return Row("checkpoint changed under way", self.times, "3, a line a cell", cells)

    def hanging_worker(self) -> Row:
        # Each starts new processes, which takes seconds.
        times = min(self.times, 3)
        cells = 0
        for number in range(times):
            store = f"hang-{number}"
            (self.folder / "hang").touch()
            process = start(self.folder, store, "sweep", "suite.yaml", "--timeout", "4")
            ended = self.ended(store, process, code=3, line="time limit of 4 s exceeded")
            require(sum("advdef: error: cell" in line for line in ended.lines) == 1, f"{store}: {ended.lines}")
            cells += self.resumed(store)
        return Row("worker hangs, --timeout", times, "3, a line a cell", cells)

    def flipped_bit(self) -> Row:
        cells = 0
        for number in range(self.times):
            store = f"bit-{number}"
            shutil.copytree(self.folder / "alone", self.folder / store)
            damaged = self.chance.choice(sorted((self.folder / store / "cells").iterdir()))
            content = bytearray(damaged.read_bytes())
            content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
            damaged.write_bytes(content)
            result = f"{damaged.name.partition('.')[0]}.json"
            ended = self.ended(store, start(self.folder, store), code=3, line=f"remove {store}/cells/{result} to run")
            # The second line says how to resume.
            require(sum("advdef: error" in line for line in ended.lines) == 2, f"{store}: {ended.lines}")
            require(
                len([*Store(self.folder / store).results(damaged=lambda _: None)]) == 15,
                f"{store}: other results are lost",
            )
            (self.folder / store / "cells" / result).unlink()
            cells += self.resumed(store)
        return Row("bit flipped in a cell's file", self.times, "3, names the file", cells)

    def signals(self) -> Row:
        cells = 0
        for number in range(2 * self.times):
            store = f"signal-{number}"
            process = start(self.folder, store, lasts=0.1)
            while not (self.folder / store / "claims").exists():
                time.sleep(0.01)
            time.sleep(self.chance.uniform(0, 0.5))
            os.kill(process, (signal.SIGINT, signal.SIGTERM)[number % 2])
            self.ended(store, process, code=130, line=f"resume with: advdef sweep suite.yaml --store {store}")
            cells += self.resumed(store)
        return Row("SIGINT, SIGTERM", 2 * self.times, "130, how to go on", cells)

    def rows(self) -> Iterator[Row]:
        """The rows of all faults."""
        faults = (
            self.disk_full,
            self.read_only,
            self.slow_file_system,
            self.clock_jumps,
            self.changed_checkpoint,
            self.hanging_worker,
            self.flipped_bit,
            self.signals,
        )
        return (fault() for fault in faults)


def killed(folder: Path, *, kills: int, processes: int, pause: float, chance: random.Random) -> Row:
    """Kills and replaces processes that share a store and a cache folder, beginning with the training of the models."""
    require(end(folder, start(folder, "alone")).code == 0, "the undisturbed sweep failed")
    done = rounds = cells = left = 0
    while done < kills:
        store = f"round-{rounds}"
        done += _disturbed(folder, store, processes=processes, kills=kills - done, pause=pause, chance=chance)
        rounds += 1
        cells += compare(Store(folder / store), Store(folder / "alone"))
        left += len(leftovers(Store(folder / store), older_than=0))
    return Row(f"SIGKILL, {processes} processes", done, f"{left} files half-written, none read", cells)


def _disturbed(folder: Path, store: str, *, processes: int, kills: int, pause: float, chance: random.Random) -> int:
    """One sweep under kills. Returns the number of kills before it was done."""
    alive: set[int] = set()
    killed = 0
    done = False
    while not done and killed < kills:
        while len(alive) < processes:
            alive.add(start(folder, store))
        time.sleep(chance.uniform(0, pause))
        for process in list(alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                alive.discard(process)
                require(status == 0, f"a process ended with {os.waitstatus_to_exitcode(status)}")
                done = True
        if not done:
            victim = chance.choice(sorted(alive))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            alive.discard(victim)
            killed += 1
    alive.add(start(folder, store))
    for process in alive:
        require(end(folder, process).code == 0, f"{store}: a process that was not killed failed")
    return killed


def run(*, kills: int, processes: int, images: int, seeds: int, pause: float, times: int, seed: int) -> Iterator[str]:
    """Runs all faults and yields the lines of the table."""
    chance = random.Random(seed)
    # A forked process has none of the threads.
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    load_dataset("digits").split("train")
    yield "| fault | times | ended with | cells, each there once and as undisturbed |"
    yield "| --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "kills").mkdir()
        (folder / "kills" / "suite.yaml").write_text(KILLED.format(images=images, seeds=list(range(seeds))))
        (folder / "faults").mkdir()
        killings = killed(folder / "kills", kills=kills, processes=processes, pause=pause, chance=chance)
        for row in itertools.chain([killings], Faults(folder / "faults", times, chance).rows()):
            yield f"| {row.fault} | {row.times} | {row.ended} | {row.cells} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--images", type=int, default=60, help="images of the sweep whose processes are killed")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of that sweep")
    parser.add_argument("--pause", type=float, default=1.0, help="maximum seconds between two kills")
    parser.add_argument("--times", type=int, default=10, help="repetitions of every other fault")
    parser.add_argument("--seed", type=int, default=0)
    for line in run(**vars(parser.parse_args())):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

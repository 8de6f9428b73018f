"""Kills processes that share a store at random moments, and looks whether anything of their work is lost or wrong.

    python tests/faults.py --kills 50 --processes 4

Each round is a sweep from the training of its models on, by several processes on one store and one cache folder. One of
them is killed (SIGKILL) after a random while, and another takes its place, until enough have been killed; then they are
let live. Every cell has to be there once, with the outcomes of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.benchmarks import overview, sweep, worker  # noqa: F401 - imported once for all processes
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.store import Store
from robustbench_cli.main import main

SUITE = """
dataset: digits
n: {images}
defenses: [none, gaussian-noise]
attacks: [fgsm, {{name: pgd, steps: 10}}, {{name: fmn, steps: 10}}, {{suite: quick}}]
eps: [0.05, 0.1, 0.2]
seeds: {seeds}
train: {{epochs: 2}}
"""


def start(folder: Path, name: str, number: int) -> int:
    """A process that sweeps the suite into the store ``name``; its identity."""
    process = os.fork()
    if process:
        return process
    os.environ["XDG_CACHE_HOME"] = str(folder / f"{name}-cache")
    log = os.open(folder / f"{name}-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(main(["sweep", str(folder / "suite.yaml"), "--store", str(folder / name)]))


def disturbed(folder: Path, name: str, *, processes: int, kills: int, pause: float, chance: random.Random) -> int:
    """A round: how many were killed before the sweep was done."""
    alive: set[int] = set()
    killed = started = 0
    done = False
    while not done and killed < kills:
        while len(alive) < processes:
            alive.add(start(folder, name, started))
            started += 1
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
    alive.add(start(folder, name, started))
    for process in alive:
        status = os.waitpid(process, 0)[1]
        require(status == 0, f"a process ended with {os.waitstatus_to_exitcode(status)}")
    return killed


def compare(store: Store, reference: Store) -> int:
    """The number of cells, when each is there and is what it is in the other store."""
    found = {result.cell.id: result for result in store.results()}
    expected = {result.cell.id: result for result in reference.results()}
    require(set(found) == set(expected), f"{len(found)} cells of {len(expected)}")
    require(not list(store.failures()), "a cell has failed")
    for cell_id, result in expected.items():
        for field in ("cell", "eps", "summary", "flags", "forwards", "backwards"):
            require(getattr(found[cell_id], field) == getattr(result, field), f"{cell_id}: {field} differs")
        ours, theirs = vars(store.outcomes(cell_id)), vars(reference.outcomes(cell_id))
        require(all(np.array_equal(ours[name], theirs[name]) for name in theirs), f"{cell_id}: outcomes differ")
    return len(found)


def require(holds: bool, words: str) -> None:
    """Ends the program where something does not hold."""
    if not holds:
        sys.exit(f"faults: {words}")


def run(*, kills: int, processes: int, images: int, seeds: int, pause: float, seed: int) -> str:
    """The rounds; what they came to, in a line."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "suite.yaml").write_text(SUITE.format(images=images, seeds=list(range(seeds))))
        # What every process needs, so that none of them spends its life on imports.
        load_dataset("digits").split("train")
        disturbed(folder, "alone", processes=1, kills=0, pause=pause, chance=chance)
        killed = rounds = cells = half_written = 0
        began = time.monotonic()
        while killed < kills:
            name = f"round-{rounds}"
            killed += disturbed(folder, name, processes=processes, kills=kills - killed, pause=pause, chance=chance)
            rounds += 1
            try:
                cells += compare(Store(folder / name), Store(folder / "alone"))
            except UserError as error:
                sys.exit(f"faults: {error}")
            half_written += len(Store(folder / name).leftovers(older_than=0))
    return (
        f"{killed} kills in {rounds} rounds of {processes} processes: {cells} cells, each there once and as undisturbed; "
        f"{half_written} files left half-written, none of them read; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=1.0, help="at most so many seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    sys.stdout.write(f"{run(**vars(parser.parse_args()))}\n")

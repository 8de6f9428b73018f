from __future__ import annotations

import csv
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store

Advdef = Callable[..., Any]

SUITE = """
n: 20
defenses: [{checkpoint: model.safetensors}, [{checkpoint: model.safetensors}, random-resize-pad]]
attacks: [fgsm, {name: pgd, steps: [2, 3]}]
eps: [0.1, 0.2]
"""


@pytest.fixture
def suite(here: Path, checkpoint: Path) -> Path:
    """Twelve cells, in the file ``suite.yaml``."""
    path = here / "suite.yaml"
    path.write_text(SUITE)
    return path


def cells(path: Path) -> list[tuple[str, str, str]]:
    """The defense, the attack and the radius of each cell in a CSV file."""
    rows = csv.DictReader(path.read_text().splitlines())
    return [(row["defense"], row["attack"], row["eps"]) for row in rows if row["attack"] != "worst-case"]


OF_RUNS = ["--existing=rerun", "--timeout=5", "--jobs=2", "--split", "--engine=local"]
OF_TABLES = ["--output=x.csv", "--format=csv", "--informational", "--fail-on-flag=any"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("eps=0.3", "'eps=0.3' fits no row: there is '0.1', '0.2'"),
        ("defense=hrs", "'defense=hrs' fits no row: there is 'none', 'random-resize-pad'"),
        ("[attack=worst-case, seed=1]", "'seed=1' fits no row: there is '0'"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--status",)])
def test_a_gate_that_no_planned_row_can_meet_is_refused_before_the_run(
    advdef: Advdef, suite: Path, condition: str, message: str, options: tuple[str, ...]
) -> None:
    """A worst case is planned, though no cell is one."""
    suite.write_text(f"{SUITE}gates: [{{fail-on-flag: any, where: {condition}}}]\n")
    ended = advdef("sweep", "suite.yaml", *options)
    assert (ended.code, ended.out) == (2, "")
    assert f"advdef: error: suite.yaml, line 6: where {message}" in ended.err
    assert not list(Path("advdef-runs").glob("cells/*"))


@pytest.mark.parametrize("word", [*OF_RUNS, *OF_TABLES])
@pytest.mark.parametrize("option", ["--dry-run", "--status"])
def test_options_of_a_run_and_its_table_need_one(advdef: Advdef, suite: Path, option: str, word: str) -> None:
    """They would be ignored; those of a project's pyproject.toml are for its other runs."""
    ended = advdef("sweep", "suite.yaml", option, word)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"advdef: error: {option} computes nothing, so that {word.partition('=')[0]} changes")
    Path("pyproject.toml").write_text(
        "[tool.advdef]\nformat = 'csv'\noutput = 'x.csv'\nfail-on-flag = 'any'\njobs = 2\n"
    )
    assert advdef("sweep", "suite.yaml", option).code == 0


def test_a_sweep_runs_every_cell_once(advdef: Advdef, suite: Path, here: Path) -> None:
    """--dry-run, the run with a line per cell, --status, and a second run that computes nothing."""
    planned = advdef("sweep", "suite.yaml", "--dry-run")
    assert planned.code == 0, planned
    assert len([line for line in planned.out.splitlines() if line.startswith(" digits")]) == 12
    summary, left = planned.out.splitlines()[-2:]
    # Resizing trains nothing: it uses the training of its base.
    assert summary == "12 cells: 12 missing"
    assert left.startswith("left: at most ")
    assert left.endswith("; time: unknown")
    assert not [*here.rglob("*.failed.json")]
    ended = advdef("sweep", "suite.yaml", "-o", "table.csv")
    assert ended.code == 0, ended
    assert len(set(cells(here / "table.csv"))) == 12
    lines = [line for line in ended.err.splitlines() if "passes/s" in line]
    assert len(lines) == 12
    assert lines[0].startswith("none fgsm linf eps 0.1: clean ")
    assert "; 1 of 12, about " in lines[0]
    assert lines[-1].endswith("; 12 of 12")
    assert advdef("sweep", "suite.yaml", "--status").out == "12 cells: 12 done\n"
    second = advdef("sweep", "suite.yaml")
    assert second.out == ended.out
    assert "12/12 cells cached in advdef-runs" in second.err
    assert advdef("sweep", "suite.yaml", "--dry-run").out.endswith("12 cells: 12 done\nleft: nothing\n")


def test_shards_cover_the_sweep(advdef: Advdef, suite: Path, here: Path) -> None:
    """Three shards on one store compute each cell once; --dry-run estimates the remaining time from measured cells."""
    for number in range(1, 4):
        assert advdef("sweep", "suite.yaml", "--shard", f"{number}/3", "-o", f"{number}.csv").code == 0
        if number == 1:
            first = len(cells(here / "1.csv"))
            planned = advdef("sweep", "suite.yaml", "--dry-run").out.splitlines()
            assert f"12 cells: {first} done, {12 - first} missing" in planned
            assert planned[-1].endswith(" s in one process")
    shares = [cells(here / f"{number}.csv") for number in range(1, 4)]
    assert all(shares)
    assert sorted(cell for share in shares for cell in share) == sorted(set().union(*shares))
    assert len(set().union(*shares)) == 12


def test_existing_cells_are_kept_rerun_or_refused(advdef: Advdef, suite: Path, here: Path) -> None:
    """``--existing`` keeps stored cells by default, and can refuse them or compute them again."""
    suite.write_text("{n: 20, defenses: {checkpoint: model.safetensors}, attacks: fgsm, eps: 0.1, seeds: [0, 1]}")
    first = advdef("sweep", "suite.yaml", "--shard", "1/2")
    assert first.code == 0
    (before,) = Store(here / "advdef-runs").results()
    ended = advdef("sweep", "suite.yaml", "--existing", "error")
    assert (ended.code, ended.out) == (2, "")
    assert "1/2 cells cached in advdef-runs" in ended.err
    ended = advdef("sweep", "suite.yaml", "--existing", "rerun")
    assert ended.code == 0
    assert [line.partition(":")[0] for line in ended.err.splitlines() if "clean" in line] == [
        "none fgsm linf eps 0.1",
        "none fgsm linf eps 0.1 seed 1",
    ]
    results = {result.cell.id: result for result in Store(here / "advdef-runs").results()}
    assert len(results) == 2
    after = results[before.cell.id]
    assert after.seconds != before.seconds
    assert after.summary == before.summary


def test_stale_cells_are_reported(advdef: Advdef, suite: Path, here: Path) -> None:
    """With the parameter that changed, and the version that computed the cell."""
    text = "{n: 20, defenses: {checkpoint: model.safetensors}, attacks: [fgsm, {name: pgd, steps: %d}], eps: 0.1}"
    suite.write_text(text % 2)
    assert advdef("sweep", "suite.yaml").code == 0
    suite.write_text(text % 3)
    planned = advdef("sweep", "suite.yaml", "--dry-run").out.splitlines()
    assert [line.split()[11:] for line in planned if line.startswith(" digits")] == [
        ["done"],
        ["stale", "pgd.steps", "was", "2"],
    ]
    assert "2 cells: 1 done, 1 stale" in planned
    assert advdef("sweep", "suite.yaml", "--status").out == "2 cells: 1 done, 1 stale\n"
    store = Store(here / "advdef-runs")
    for result in list(store.results()):
        older = result.model_copy(update={"versions": result.versions | {"advdef": "0.0"}, "seconds": 1.0})
        store.publish(older, outcomes_file(result, here), replacing=store.result_hash(result.cell.id))
    lines = advdef("sweep", "suite.yaml", "--status").out.splitlines()
    assert lines[1] == "1 of another version (advdef was 0.0): --existing rerun computes them again"


def outcomes_file(result: Result, here: Path) -> bytes:
    """The file of a result's outcomes."""
    (path,) = (here / "advdef-runs" / "cells").glob(f"{result.cell.id}.*.npz")
    return path.read_bytes()


def test_status_shows_cells_that_another_process_runs(advdef: Advdef, suite: Path, here: Path) -> None:
    """A cell with a lease counts as running; failed cells are counted too."""
    (here / "own.py").write_text(
        "from robustbench_cli.attacks.fgsm import FGSM\nclass Broken(FGSM):\n    def run(self, *given):\n        raise RuntimeError('no way')\n"
    )
    suite.write_text(
        "{n: 20, defenses: {checkpoint: model.safetensors}, attacks: [fgsm, 'own.py:Broken'], eps: [0.1, 0.2]}"
    )
    ended = advdef("sweep", "suite.yaml")
    assert ended.code == 3
    # Both cells that failed are told as they end, and the reason once more at the end; the second continues the first.
    assert ended.err.count("no way") == 2
    assert ended.err.count(", which this cell continues, failed") == 2
    assert advdef("sweep", "suite.yaml", "--status").out == "4 cells: 2 done, 2 failed\n"
    (failed, *_) = (here / "advdef-runs" / "cells").glob("*.failed.json")
    with Leases(here / "advdef-runs").hold(failed.name.partition(".")[0]):
        lines = advdef("sweep", "suite.yaml", "--status").out.splitlines()
    assert lines[0] == "4 cells: 2 done, 1 running, 1 failed"
    assert re.fullmatch(rf"running: none own.py:Broken linf eps 0.[12], process {os.getpid()} on \S+", lines[1])
    assert advdef("sweep", "suite.yaml", "--dry-run").out.endswith("left: unknown; time: unknown\n")


@pytest.mark.usefixtures("forked_workers")
def test_processes_share_the_cells(advdef: Advdef, suite: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share the trainings and the cells, and their results equal those of one process."""
    suite.write_text(
        "{n: 20, defenses: [none, gaussian-noise], attacks: [fgsm, {name: pgd, steps: 3}], eps: 0.1, train: {epochs: 3}}"
    )
    # Other tests of the session train networks that these cells could use.
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    ended = advdef("sweep", "suite.yaml", "--jobs", "2", "-o", "two.csv", "--store", "two")
    assert ended.code == 0
    assert ended.err.count("training small-cnn with") == 2
    assert "small-cnn with gaussian-noise on digits: training: 3 epochs, loss" in ended.err
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "elsewhere"))
    assert advdef("sweep", "suite.yaml", "-o", "one.csv", "--store", "one").code == 0

    def computed(path: Path) -> list[dict[str, str]]:
        rows = csv.DictReader(path.read_text().splitlines())
        return [{key: value for key, value in row.items() if key not in {"seconds", "checkpoint"}} for row in rows]

    assert len(cells(here / "two.csv")) == 4

    assert computed(here / "two.csv") == computed(here / "one.csv")


def test_worker_processes_leave_no_warnings(advdef_process: Advdef, here: Path) -> None:
    """HRS counts operations with a lock of torch's; its process ends without a message about leaked objects."""
    (here / "hrs.yaml").write_text(
        "{n: 20, defenses: {name: hrs, channels: [1, 1]}, attacks: fgsm, eps: 0.1, train: {epochs: 1}}"
    )
    ended = advdef_process("sweep", "hrs.yaml", "--jobs", "1")
    assert ended.code == 0
    assert "leaked" not in ended.err


def test_sigterm_to_all_processes_loses_nothing(advdef: Advdef, suite: Path, here: Path) -> None:
    """A cluster sends SIGTERM to every process: exit code 130, no failed cell, and the sweep can be resumed."""
    (here / "own.py").write_text(
        "import os, time\nfrom robustbench_cli.attacks.fgsm import FGSM\n"
        "class Slow(FGSM):\n    def run(self, *given):\n"
        "        open('began', 'w').close()\n        time.sleep(600 * ('WAIT' in os.environ))\n        return super().run(*given)\n"
    )
    suite.write_text("{n: 20, defenses: {checkpoint: model.safetensors}, attacks: [fgsm, 'own.py:Slow'], eps: 0.1}")
    command = [sys.executable, "-m", "robustbench_cli", "sweep", "suite.yaml", "--jobs", "1"]
    running = subprocess.Popen(
        command,
        env=os.environ | {"WAIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    while not (here / "began").exists() and running.poll() is None:
        select.select([running.stderr], [], [], 0.05)
    os.killpg(running.pid, signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.rstrip().endswith("resume with: advdef sweep suite.yaml --jobs 1")
    assert len(list((here / "advdef-runs" / "cells").glob("*.json"))) == 1
    resumed = advdef("sweep", "suite.yaml")
    assert resumed.code == 0, resumed.err
    assert "1/2 cells cached in advdef-runs" in resumed.err


BATCHES = """
import glob, os, time
from robustbench_cli.attacks.fgsm import FGSM

class Counted(FGSM):
    # A file for each batch: its process, and the sum of its images.
    def run(self, source, images, *given):
        open(f"batch {os.getpid()} {float(images.sum())}", "x").close()
        return super().run(source, images, *given)

class Together(Counted):
    # Goes on when two processes attack a batch each.
    def run(self, *given):
        proposed = super().run(*given)
        while "ALONE" not in os.environ and len({path.split()[1] for path in glob.glob("batch *")}) < 2:
            time.sleep(0.01)
        return proposed

class Slow(Counted):
    # The last of three batches waits until the others are stored, and then for the end.
    def run(self, *given):
        if "WAIT" in os.environ and len(glob.glob("batch *")) >= 2:
            while len(glob.glob("advdef-runs/pieces/*/*.piece")) < 2:
                time.sleep(0.01)
            open("began", "w").close()
            time.sleep(600)
        return super().run(*given)
"""

SPLIT_SUITE = "{n: 250, defenses: {checkpoint: model.safetensors}, attacks: 'own.py:%s', eps: 0.1}"
"""One cell of three batches."""


def figures(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file without the time."""
    return [{**row, "seconds": ""} for row in csv.DictReader(path.read_text().splitlines())]


def sums_of_batches(here: Path) -> list[str]:
    """The sum of the images of each batch that was attacked."""
    return [path.name.split()[2] for path in here.glob("batch *")]


def test_machines_share_the_batches_of_a_cell(
    advdef: Advdef, suite: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards of one cell: both attack batches, each batch once, and both report what one process reports."""
    (here / "own.py").write_text(BATCHES)
    suite.write_text(SPLIT_SUITE % "Together")
    command = [sys.executable, "-m", "robustbench_cli", "sweep", "suite.yaml", "--split", "-q"]
    running = [
        subprocess.Popen([*command, "--shard", f"{number}/2", "-o", f"{number}.csv"], stderr=subprocess.PIPE, text=True)
        for number in (1, 2)
    ]
    assert [process.communicate(timeout=120)[1] for process in running] == ["", ""]
    assert len({path.name.split()[1] for path in here.glob("batch *")}) == 2
    assert len(sums_of_batches(here)) == len(set(sums_of_batches(here))) == 3
    for path in here.glob("batch *"):
        path.unlink()
    monkeypatch.setenv("ALONE", "yes")
    assert advdef("sweep", "suite.yaml", "-o", "alone.csv", "--store", "alone").code == 0
    assert figures(here / "1.csv") == figures(here / "2.csv") == figures(here / "alone.csv")


@pytest.mark.usefixtures("forked_workers")
def test_an_interrupted_split_cell_goes_on_in_any_number_of_processes(
    advdef: Advdef, suite: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stored batches are not attacked again; the line to resume is printed."""
    (here / "own.py").write_text(BATCHES)
    suite.write_text(SPLIT_SUITE % "Slow")
    running = subprocess.Popen(
        [sys.executable, "-m", "robustbench_cli", "sweep", "suite.yaml", "--jobs", "2", "--split"],
        env=os.environ | {"WAIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Processes that run in the background ignore SIGINT, and their children do too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads start here
    )
    assert running.stderr is not None
    while not (here / "began").exists() and running.poll() is None:
        select.select([running.stderr], [], [], 0.05)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.rstrip().endswith("resume with: advdef sweep suite.yaml --jobs 2 --split")
    assert len(sums_of_batches(here)) == 2
    ranges = [path.stem.split("-") for path in (here / "advdef-runs" / "pieces").glob("*/*.piece")]
    stored = sum(int(stop) - int(start) for start, stop in ranges)
    assert f", {stored} of 250 images\n" in advdef("sweep", "suite.yaml", "--status").out
    for number, options in enumerate([(), ("--split",), ("--jobs", "2", "--split")]):
        folder = shutil.copytree(here, here.with_name(f"{here.name}-{number}"))
        monkeypatch.chdir(folder)
        resumed = advdef("sweep", "suite.yaml", *options)
        assert resumed.code == 0, resumed.err
        assert len(sums_of_batches(folder)) == len(set(sums_of_batches(folder))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["suite.yaml", "--engine", "ray", "--split"], "--split is not for Ray"),
        (["suite.yaml", "--jobs", "0"], "--jobs: '0' is no number of processes"),
        (["quik"], "unknown suite 'quik': did you mean 'quick'?"),
        (["no.yaml"], "no.yaml cannot be read"),
        (["suite.yaml", "--jobs", "2", "--gpus", "0"], "--jobs and --gpus both say how many processes there are"),
        (["suite.yaml", "--gpus", "0-1"], "--gpus: '0-1' names no GPUs"),
        (["suite.yaml", "--gpus", "9999"], "no device cuda:9999"),
        (["suite.yaml", "--shard", "3/2"], "--shard: '3/2' is no shard"),
        (["suite.yaml", "--shard", "half"], "--shard: 'half' is no shard"),
        (["suite.yaml", "--existing", "reru"], "did you mean 'rerun'?"),
        (["suite.yaml", "-o", "table.txt"], "the ending selects the format"),
        (["bad.yaml"], "bad.yaml, line 2: unknown attack 'pdg': did you mean 'pgd'?"),
    ],
)
def test_a_usage_error(advdef: Advdef, suite: Path, here: Path, options: list[str], message: str) -> None:
    """It is one line with exit code 2, and nothing is computed."""
    (here / "bad.yaml").write_text("n: 20\nattacks: [pdg]")
    ended = advdef("sweep", *options)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (here / "advdef-runs").exists()


def test_attack_reads_suite_files(advdef: Advdef, suite: Path, here: Path) -> None:
    """Only suites that name nothing but attacks; a suite inside them stays a cascade."""
    ended = advdef("attack", "--checkpoint", "model.safetensors", "--suite", "suite.yaml", "--n", "20")
    assert ended.code == 2
    assert "suite.yaml, line 3: 'defenses' is not for --suite" in ended.err
    suite.write_text("attacks: [cw, {name: fgsm, eot: [1, 1]}, {suite: quick}]")
    ended = advdef("attack", "--checkpoint", "model.safetensors", "--suite", "suite.yaml", "--n", "20", "-o", "t.csv")
    assert ended.code == 0, ended
    assert [attack for _, attack, _ in cells(here / "t.csv")] == ["fgsm", "cw-pgd(steps=20)", "'+pgd(steps=20)"]


def test_an_option_for_gpus_needs_gpus(here: Path, advdef: Callable[..., Any]) -> None:
    """--per-gpu without --gpus is a usage error."""
    (here / "s.yaml").write_text("attacks: [fgsm]")
    for options in (("--per-gpu", "2"), ("--per-gpu", "2", "--jobs", "2")):
        ended = advdef("sweep", "s.yaml", *options)
        assert ended.code == 2
        assert "--per-gpu is for --gpus" in ended.err


def test_more_images_than_a_suites_data_have(here: Path, advdef: Callable[..., Any]) -> None:
    """A number of images that the data set does not have gives a warning that names the line."""
    (here / "s.yaml").write_text("attacks: [fgsm]\nn: 1000000\ntrain: {epochs: 1}")
    ended = advdef("sweep", "s.yaml", "--dry-run", "-q")
    assert ended.code == 0
    assert "s.yaml, line 2: n is 1000000: digits has 500 test images, and all of them are used" in ended.err

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.claims import Claims
from robustbench_cli.benchmarks.store import Store

Advdef = Callable[..., Any]


@pytest.fixture
def filled(advdef: Advdef, here: Path, checkpoint: Path) -> Path:
    """A store with two cells of one attack, one of a minimal-norm attack, and one that failed."""
    (here / "own.py").write_text(
        "from robustbench_cli.attacks.fgsm import FGSM\nclass Broken(FGSM):\n    def run(self, *given):\n        raise RuntimeError('no way')\n"
    )
    words = ("attack", "--checkpoint", "model.safetensors", "--n", "20", "-q")
    assert advdef(*words, "--attack", "fgsm", "--eps", "0.1", "--eps", "0.2").code == 0
    assert advdef(*words, "--attack", "ddn", "--set", "steps=2").code == 0
    assert advdef(*words, "--attack", "own.py:Broken").code == 3
    return here / "advdef-runs"


def content(folder: Path) -> dict[str, bytes]:
    """The files of a store's cells, with the searches."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("cells/*")}


def test_a_store_is_verified(advdef: Advdef, filled: Path) -> None:
    """Every file is read; what is damaged is named, also in the searches, and what is whole is counted."""
    ended = advdef("store", "verify")
    assert (ended.code, ended.out) == (0, "advdef-runs: 4 results, 1 failures, 0 damaged\n")
    damaged = [next((filled / "searches" / "cells").glob("*.npz")), next((filled / "cells").glob("*.failed.json"))]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1])
    ended = advdef("store", "verify", "advdef-runs")
    assert (ended.code, ended.out) == (3, "advdef-runs: 3 results, 0 failures, 2 damaged\n")
    lines = ended.err.splitlines()
    assert len(lines) == 2
    for path in damaged:
        assert any(str(path.relative_to(filled.parent)) in line for line in lines)


def test_stores_are_merged(advdef: Advdef, filled: Path, here: Path) -> None:
    """Byte for byte; what is there stays as it is, and what is damaged is left behind and named."""
    ended = advdef("store", "merge", "advdef-runs", "all")
    assert ended.code == 0
    assert ended.out == "all: 4 results from advdef-runs\n"
    assert content(here / "all") == content(filled)
    assert advdef("store", "merge", "advdef-runs", "all").out == "all: 0 results from advdef-runs\n"
    for path in (here / "all" / "cells").glob("*.npz"):
        path.unlink()
    ended = advdef("store", "merge", "all", "advdef-runs", "third")
    assert ended.code == 3
    assert len(ended.err.splitlines()) == 3
    assert content(here / "third") == content(filled)


def test_what_no_result_needs_is_pruned(advdef: Advdef, filled: Path) -> None:
    """When it is old enough to be nobody's work in progress; results and failures stay."""
    before = content(filled)
    cells = filled / "cells"
    done = next(path.name for path in cells.glob("*.json") if not path.name.endswith(".failed.json"))
    cell_id = done.partition(".")[0]
    left = [cells / f".{done}.0123456789abcdef", cells / f"{cell_id}.000000000000.npz", cells / f"{'a' * 20}.0.npz"]
    left.append(cells / f"{cell_id}.failed.json")
    for path in left:
        path.write_text("")
    assert advdef("store", "prune").out == ""
    for path in cells.iterdir():
        os.utime(path, (0, 0))
    named = sorted(str(path.relative_to(filled.parent)) for path in left)
    with Claims(filled).hold(cell_id):
        assert advdef("store", "prune", "--dry-run").out == f"{left[2].relative_to(filled.parent)}\n"
    assert sorted(advdef("store", "prune", "--dry-run").out.splitlines()) == named
    assert all(path.exists() for path in left)
    ended = advdef("store", "prune")
    assert (ended.code, sorted(ended.out.splitlines())) == (0, named)
    assert content(filled) == before
    assert len(list(Store(filled).results())) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verfy"], "unknown word 'verfy': did you mean 'verify'?"),
        (["verify", "gone"], "no store at gone"),
        (["merge", "gone", "into"], "no store at gone"),
        (["merge", "one"], "give the stores to copy from and, last, the one to copy into"),
        (["merge", "a", "./a"], "a is among the stores to copy from"),
        (["verify", "--dry-run"], "--dry-run is for 'advdef store prune'"),
    ],
)
def test_a_mistake_is_named(advdef: Advdef, here: Path, words: list[str], message: str) -> None:
    """In one line, with exit code 2."""
    ended = advdef("store", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1

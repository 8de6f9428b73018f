from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.store import Store

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
    with Leases(filled).hold(cell_id):
        assert advdef("store", "prune", "--dry-run").out == f"{left[2].relative_to(filled.parent)}\n"
    assert sorted(advdef("store", "prune", "--dry-run").out.splitlines()) == named
    assert all(path.exists() for path in left)
    ended = advdef("store", "prune")
    assert (ended.code, sorted(ended.out.splitlines())) == (0, named)
    assert content(filled) == before
    assert len(list(Store(filled).results())) == 3


@pytest.fixture
def certificates(advdef: Advdef, here: Path) -> Path:
    """A store of a certification by smoothing and one by intervals, and of a reprogramming; and of no cell."""
    assert (
        advdef("train", "--defense", "randomized-smoothing", "--epochs", "1", "-o", "model.safetensors", "-q").code == 0
    )
    assert advdef("train", "--defense", "ibp", "--epochs", "1", "-o", "ibp.safetensors", "-q").code == 0
    few = ("--n", "3", "--store", "kept", "-q")
    assert advdef("certify", "--checkpoint", "model.safetensors", "--sigma", "0.25", "--samples", "50", *few).code == 0
    assert advdef("certify", "--checkpoint", "ibp.safetensors", *few).code == 0
    words = ("--checkpoint", "ibp.safetensors", "--task", "digits", "--set", "reprogramming.epochs=1")
    assert advdef("reprogram", *words, *few).code == 0
    return here / "kept"


def files(store: Path) -> dict[str, bytes]:
    """All files of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_store_without_cells_is_a_store(advdef: Advdef, certificates: Path, here: Path) -> None:
    """What it holds is counted, carried over byte for byte, and reported as no row."""
    counts = "0 results, 0 failures, 2 certifications, 1 reprogrammings, 0 damaged"
    assert advdef("store", "verify", "kept").out == f"kept: {counts}\n"
    ended = advdef("store", "merge", "kept", "into")
    assert (ended.code, ended.out) == (0, "into: 0 results, 2 certifications, 1 reprogrammings from kept\n")
    assert files(here / "into") == files(certificates)
    again = advdef("store", "merge", "kept", "into")
    assert again.out == "into: 0 results, 0 certifications, 0 reprogrammings from kept\n"
    assert files(here / "into") == files(certificates)
    assert (advdef("report", "kept").code, advdef("store", "prune", "kept").code) == (0, 0)


def test_every_damaged_file_is_named(advdef: Advdef, certificates: Path) -> None:
    """Whatever of a certification or a reprogramming is emptied, cut off or changed: exit code 3 and its name."""
    whole = files(certificates)
    assert len(whole) == 5
    for name, content in whole.items():
        for damaged in (b"", content[: len(content) // 2], content.replace(b"1", b"2"), b"\xff" + content[1:]):
            if damaged == content:
                continue
            (certificates / name).write_bytes(damaged)
            ended = advdef("store", "verify", "kept")
            if damaged and name.endswith(".jsonl") and content.startswith(damaged):
                # As a kill leaves it.
                assert (ended.code, "1 certifications interrupted" in ended.out) == (0, True)
                continue
            assert (ended.code, ended.out.endswith(" 1 damaged\n")) == (3, True), (name, damaged)
            (line,) = ended.err.splitlines()
            assert f"kept/{name}" in line
            assert advdef("store", "merge", "kept", "other").code == 3
            if "certification" in name:
                assert advdef("report", "kept").code == 3
        (certificates / name).write_bytes(content)


def test_a_merge_completes_an_interrupted_certification(advdef: Advdef, certificates: Path, here: Path) -> None:
    """Where each store has some of the images, they are one certification afterwards."""
    (path,) = [each for each in certificates.glob("certification/*.jsonl") if b'"radius' not in each.read_bytes()]
    first, *rest = path.read_bytes().splitlines(keepends=True)
    shutil.copytree(certificates, here / "other")
    path.write_bytes(first)
    (here / "other" / path.relative_to(certificates)).write_bytes(b"".join(rest))
    assert "1 certifications interrupted" in advdef("store", "verify", "kept").out
    assert "1 certifications, 0 reprogrammings from other" in advdef("store", "merge", "other", "kept").out
    assert "2 certifications, 1 reprogrammings, 0 damaged" in advdef("store", "verify", "kept").out


def test_what_no_certification_needs_is_pruned(advdef: Advdef, certificates: Path) -> None:
    """Half-written files, and images of which it is not said what they are; an hour after they were written."""
    before = files(certificates)
    left = [
        certificates / "certification" / f".{'a' * 20}.json.0123456789abcdef",
        certificates / "certification" / f"{'a' * 20}.images.jsonl",
        certificates / "reprogramming" / f".{'a' * 20}.json.0123456789abcdef",
    ]
    for path in left:
        path.write_bytes(b"")
    assert advdef("store", "prune", "kept").out == ""
    for path in left:
        os.utime(path, (0, 0))
    assert sorted(advdef("store", "prune", "kept").out.split()) == sorted(
        f"kept/{path.relative_to(certificates)}" for path in left
    )
    assert files(certificates) == before


def test_pieces_are_verified_and_merged(advdef: Advdef, filled: Path, here: Path) -> None:
    """What has been found of a cell that is not done goes with the store; of a cell that is done, it does not."""
    done = next(path.stem for path in filled.glob("cells/*.json") if not path.name.endswith(".failed.json"))
    content = b"found so far"
    whole = hashlib.sha256(content).digest() + content
    for cell, start, batch_result in (("a" * 20, 0, whole), ("a" * 20, 8, whole[:-1]), (done, 0, whole)):
        path = filled / "pieces" / cell / f"{start}.piece"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(batch_result)
    ended = advdef("store", "verify")
    assert ended.out == "advdef-runs: 4 results, 1 failures, 2 partial results of unfinished cells, 1 damaged\n"
    assert f"advdef-runs/pieces/{'a' * 20}/8.piece is damaged" in ended.err
    assert advdef("store", "merge", "advdef-runs", "all").code == 3
    assert [*(here / "all").glob("pieces/*/*")] == [here / "all" / "pieces" / ("a" * 20) / "0.piece"]


def test_what_was_asked_is_verified(advdef: Advdef, filled: Path) -> None:
    """A damaged request is named, by the report too: nobody knows which cells are missing."""
    path = next(filled.glob("asked/*.json"))
    path.write_bytes(path.read_bytes()[:-1])
    for words in (("store", "verify"), ("report",), ("store", "merge", "advdef-runs", "all")):
        ended = advdef(*words)
        assert ended.code == 3
        assert f"{path.relative_to(filled.parent)} is damaged" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verfy"], "unknown action 'verfy': did you mean 'verify'?"),
        (["verify", "gone"], "no store at gone"),
        (["merge", "gone", "into"], "no store at gone"),
        (["merge", "one"], "give the stores to copy from and, last, the one to copy into"),
        (["merge", "a", "./a"], "a is among the stores to copy from"),
        (["merge", "a", "b", "--unfinished"], "--unfinished is for 'advdef store prune'"),
        (["verify", "--dry-run"], "--dry-run is for 'advdef store prune'"),
    ],
)
def test_a_mistake_is_named(advdef: Advdef, here: Path, words: list[str], message: str) -> None:
    """In one line, with exit code 2."""
    ended = advdef("store", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1

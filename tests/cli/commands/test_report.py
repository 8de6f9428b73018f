from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import TINY

Advdef = Callable[..., Any]

BROKEN = """
from robustbench_cli.attacks.fgsm import FGSM

class Broken(FGSM):
    def run(self, *given):
        raise RuntimeError("no way")
"""


@pytest.fixture
def store(advdef: Advdef, here: Path, checkpoint: Path) -> Path:
    """The store ``advdef-runs`` with two attacks at two radii."""
    words = (
        "--attack",
        "fgsm",
        "--attack",
        "pgd",
        "--set",
        "pgd.steps=3",
        "--eps",
        "0.1",
        "--eps",
        "0.02",
        *TINY,
        "-q",
    )
    assert advdef("attack", "--checkpoint", "model.safetensors", *words).code == 0
    return here / "advdef-runs"


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text."""
    return list(csv.DictReader(text.splitlines()))


def test_the_store_is_told_in_every_form(advdef: Advdef, here: Path, store: Path) -> None:
    """Table, CSV, JSON and Markdown have the same rows in the same order, by growing radius."""
    found = rows(advdef("report", "--format", "csv").out)
    assert [(row["eps"], row["attack"]) for row in found] == [
        ("0.02", "fgsm"),
        ("0.02", "pgd(steps=3)"),
        ("0.02", "worst-case"),
        ("0.1", "fgsm"),
        ("0.1", "pgd(steps=3)"),
        ("0.1", "worst-case"),
    ]
    objects = json.loads(advdef("report", "--format", "json").out)
    assert [each["cell"] for each in objects] == [row["cell"] for row in found]
    markdown = advdef("report", "--format", "markdown").out.splitlines()
    assert len(markdown) == len(found) + 2
    assert all(line.startswith("|") and line.endswith("|") for line in markdown)
    assert advdef("report").out.count("worst-case") == 2
    written = advdef("report", "-o", "a.csv", "-o", "a.json", "-o", "folder/a.md", "-q")
    assert (written.code, written.err) == (0, "")
    assert (here / "a.csv").read_text() == advdef("report", "--format", "csv").out
    assert json.loads((here / "a.json").read_text()) == objects
    assert (here / "folder" / "a.md").read_text().splitlines() == markdown


def test_several_stores_are_one_table(advdef: Advdef, here: Path, store: Path) -> None:
    """A cell that is in both is one row; a worst case is taken over both."""
    shutil.copytree(store, here / "copy")
    more = ("--attack", "cw-pgd", "--set", "steps=2", "--eps", "0.1", *TINY, "--store", "more", "-q")
    assert advdef("attack", "--checkpoint", "model.safetensors", *more).code == 0
    found = rows(advdef("report", "advdef-runs", "copy", "more", "--format", "csv").out)
    assert [row["attack"] for row in found][3:] == ["cw-pgd(steps=2)", "fgsm", "pgd(steps=3)", "worst-case"]


def test_conditions_choose_rows(advdef: Advdef, store: Path) -> None:
    """All of several keys, any of one key's values; a worst case is still over all the attacks."""
    every = rows(advdef("report", "--format", "csv").out)
    assert (
        rows(advdef("report", "--where", "eps=0.1", "--where", "attack=worst-case", "--format", "csv").out) == every[5:]
    )
    assert rows(advdef("report", "--where", "attack=pgd", "--where", "attack=fgsm", "--format", "csv").out) == [
        row for row in every if row["attack"] != "worst-case"
    ]
    nothing = advdef("report", "--where", "defense=hrs")
    assert (nothing.code, nothing.out) == (0, "no rows\n")
    assert nothing.err == "advdef: warning: --where 'defense=hrs' fits no row: there is 'none'\n"


def test_a_gate_is_an_exit_code(advdef: Advdef, here: Path, store: Path) -> None:
    """0 where every row is at the limit or above, 1 and a line for each below, whatever the table shows rounded."""
    left = {
        (row["eps"], row["attack"]): float(row["robust_accuracy"])
        for row in rows(advdef("report", "--format", "csv").out)
    }
    lowest = left["0.1", "worst-case"]
    assert advdef("report", "--fail-under", f"robust_accuracy={lowest!r}").code == 0
    ended = advdef("report", "--fail-under", f"robust_accuracy={lowest + 1e-6!r}")
    assert ended.code == 1
    assert "worst-case" in ended.out
    lines = [line for line in ended.err.splitlines() if "worst-case" in line]
    assert lines == [
        f"advdef: error: digits small-cnn none worst-case linf eps 0.1: robust_accuracy {lowest:.6g} is below {lowest + 1e-6:g}"
    ]
    where = ("--where", "eps=0.02", "--where", "attack=fgsm")
    assert advdef("report", *where, "--fail-under", f"robust_accuracy={left['0.02', 'fgsm']}").code == 0


def test_a_baseline_is_an_exit_code(advdef: Advdef, here: Path, store: Path) -> None:
    """Against itself nothing drops; a better past is 1, a past with a row that is gone is 3."""
    gate = ("--baseline", "past.csv", "--max-drop", "robust_accuracy=0.05")
    advdef("report", "-o", "past.csv")
    assert advdef("report", *gate).code == 0
    past = rows((here / "past.csv").read_text())
    past[0]["robust_accuracy"] = str(float(past[0]["robust_accuracy"]) + 0.051)
    write(here / "past.csv", past)
    ended = advdef("report", *gate)
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("advdef: error: ")]
    assert line.startswith("advdef: error: digits small-cnn none fgsm linf eps 0.02: robust_accuracy fell from ")
    assert line.endswith("by more than 0.05")
    write(here / "past.csv", [*past[1:], past[0] | {"attack": "square"}])
    ended = advdef("report", *gate)
    assert ended.code == 3
    assert "none square linf eps 0.02: it is in the baseline, and not in the table" in ended.err
    assert advdef("report", *gate, "--where", "attack=fgsm", "--where", "eps=0.1").code == 0


def write(path: Path, table: list[dict[str, str]]) -> None:
    """Writes rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def test_failed_cells_leave_a_gate_unjudged(advdef: Advdef, here: Path, store: Path) -> None:
    """Without a gate they are warned of; with one it is 3, unless the conditions leave them out."""
    (here / "own.py").write_text(BROKEN)
    words = ("attack", "--checkpoint", "model.safetensors", "--attack", "own.py:Broken", "--eps", "0.3", *TINY)
    assert advdef(*words).code == 3
    told = advdef("report")
    assert told.code == 0
    assert "warning: cell " in told.err
    gate = ("--fail-under", "robust_accuracy=0")
    judged = advdef("report", *gate)
    assert judged.code == 3
    assert "failed: RuntimeError: no way" in judged.err
    assert advdef("report", *gate, "--where", "eps=0.1").code == 0
    assert advdef("report", *gate, "--where", "eps=0.3").code == 3


def test_a_figure_that_is_missing_leaves_a_gate_unjudged(advdef: Advdef, store: Path) -> None:
    """No row at all, or no distance where nothing fell, is 3; no score of an undefended model is no fault."""
    words = ("--attack", "fgsm", "--eps", "0", *TINY, "-q")
    assert advdef("attack", "--checkpoint", "model.safetensors", *words).code == 0
    for conditions, limit, code in [
        ("attack=cw", "robust_accuracy=0", 3),
        ("eps=0", "robust_accuracy=0", 0),
        ("eps=0", "mean_l2=0", 3),
        ("eps=0", "des=1", 0),
    ]:
        assert advdef("report", "--where", conditions, "--fail-under", limit).code == code


def test_what_cannot_be_reported_is_named(advdef: Advdef, here: Path, store: Path) -> None:
    """A store, a column, a limit, a baseline or a file's ending that makes no sense is one line."""
    (here / "page.csv").write_text("<html>")
    for words, line in [
        (("gone",), "no store at gone: run 'advdef attack --store gone' first, or name another"),
        (
            ("--fail-under", "robust=0.4"),
            "--fail-under 'robust=0.4': unknown column 'robust': did you mean 'robust_accuracy'?",
        ),
        (("--fail-under", "robust_accuracy=x"), "--fail-under 'robust_accuracy=x': give COLUMN=VALUE, such as"),
        (("--where", "atack=x"), "--where 'atack=x': unknown column 'atack': did you mean 'attack'?"),
        (("--baseline", "page.csv"), "--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both"),
        (("--max-drop", "des=1"), "--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both"),
        (("--baseline", "gone.csv", "--max-drop", "des=1"), "--baseline gone.csv cannot be read ("),
        (("--baseline", "page.csv", "--max-drop", "des=1"), "--baseline page.csv has no column 'dataset'"),
        (("-o", "table.txt"), "-o table.txt: the ending names the form; give one of .csv, .json, .md"),
        (("--format", "xml"), "--format: unknown word 'xml'"),
    ]:
        ended = advdef("report", *words)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.splitlines()) == 1
        assert ended.err.startswith(f"advdef: error: {line}")


def test_damaged_outcomes_are_named(advdef: Advdef, store: Path) -> None:
    """And hide no row that is whole; a gate cannot be judged."""
    path = next((store / "cells").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1])
    ended = advdef("report", "--format", "csv")
    assert ended.code == 3
    assert len([row for row in rows(ended.out) if row["attack"] != "worst-case"]) == 3
    assert f"{path.relative_to(store.parent)} is damaged, its content is not what was stored: remove " in ended.err
    assert len(ended.err.splitlines()) == 1
    assert advdef("report", "--fail-under", "robust_accuracy=0").code == 3

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .scored_store import HRS, JPEG, add

Advdef = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An undefended model, a deterministic defense and a randomized one, on 200 images."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = np.arange(200)
    add(tmp_path / "runs", images < 40)
    add(tmp_path / "runs", images < 80, defenses=(JPEG,))
    add(tmp_path / "runs", rng.random((10, 200)) < np.where(images < 140, 0.9, 0.1), defenses=(HRS,), eot=10)
    return tmp_path / "runs"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_two_rows_are_compared_in_every_form(advdef: Advdef, store: Path) -> None:
    """All formats have the same figures."""
    chosen = "--compare", "defense=none", "--with", "defense=jpeg"
    outputs = ("-o", "pairs.csv", "-o", "pairs.json", "-o", "pairs.md")
    ended = advdef("report", "runs", *chosen, *outputs)
    assert ended.code == 0, ended.err
    assert "-20.0 [" in ended.out
    (row,) = rows((store.parent / "pairs.csv").read_text())
    (record,) = json.loads((store.parent / "pairs.json").read_text())
    assert float(row["difference"]) == record["difference"] == -0.2
    assert (record["test"], record["differ"], record["b_only"]) == ("mcnemar", True, 40)
    assert "| -20.0 [" in (store.parent / "pairs.md").read_text()


def test_all_pairs_of_defenses(advdef: Advdef, store: Path) -> None:
    """The conditions choose among the rows, and the table goes to stdout alone."""
    ended = advdef("report", "runs", "--compare", "defense", "--format", "csv")
    assert [(row["a"], row["b"], row["test"]) for row in rows(ended.out)] == [
        ("none", "hrs", "sign-flip"),
        ("none", "jpeg", "mcnemar"),
        ("hrs", "jpeg", "sign-flip"),
    ]
    some = advdef("report", "runs", "--compare", "defense", "--where", "defense=none", "--where", "defense=hrs")
    assert "corrected for the pair of this table" in " ".join(some.out.split())


def test_protocols_side_by_side(advdef: Advdef, store: Path) -> None:
    """For the randomized row alone, with the curve in CSV."""
    found = rows(advdef("report", "runs", "--protocols", "--format", "csv").out)
    assert {row["defense"] for row in found} == {"hrs"}
    curve = [float(row["robust_accuracy"]) for row in found if row["protocol"] == "best-of-k"]
    assert len(curve) == 10
    assert curve == sorted(curve, reverse=True)
    (expected,) = (row for row in found if row["protocol"] == "expected")
    (row,) = rows(advdef("report", "runs", "--where", "defense=hrs", "--format", "csv").out)
    for name in ("robust_accuracy", "robust_accuracy_low", "robust_accuracy_high", "clean_accuracy"):
        assert float(expected[name]) == pytest.approx(float(row[name]))
    shown = advdef("report", "runs", "--protocols").out
    assert "best of 5" in shown
    assert "Lucas et al. (arXiv 2302.13464)" in " ".join(shown.split())


def test_a_model_in_several_norms(advdef: Advdef, store: Path) -> None:
    """The union has the images that are right in both norms, and the accuracies in the norms are those of the table."""
    right = np.arange(200) % 3 > 0
    add(store, right, norm="l2", eps=0.5)
    found = rows(advdef("report", "runs", "--union", "--format", "csv").out)
    assert [(row["norm"], row["eps"]) for row in found] == [
        ("linf", "0.1"),
        ("l2", "0.5"),
        ("union", "linf 0.1, l2 0.5"),
    ]
    assert float(found[-1]["robust_accuracy"]) == (right & (np.arange(200) < 40)).mean()
    table = rows(advdef("report", "runs", "--where", "defense=none", "--format", "csv").out)
    for row, usual in zip(found[:-1], sorted(table, key=lambda row: row["norm"], reverse=True), strict=True):
        for name in ("clean_accuracy", "robust_accuracy", "robust_accuracy_low", "robust_accuracy_high"):
            assert float(row[name]) == pytest.approx(float(usual[name]))
    assert "| none | 100.0 [98,100] | 20.0 [" in advdef("report", "runs", "--union", "--format", "markdown").out


def test_recall_and_precision_by_class(advdef: Advdef, store: Path) -> None:
    """All images are of one class: its recall is the accuracy, and no other class has images."""
    found = rows(advdef("report", "runs", "--by-class", "--format", "csv").out)
    assert [(row["defense"], row["class"], row["images"]) for row in found] == [
        ("none", "0", "200"),
        ("hrs", "0", "200"),
        ("jpeg", "0", "200"),
    ]
    accuracies = rows(advdef("report", "runs", "--format", "csv").out)
    for entry, row in zip(found, accuracies, strict=True):
        for end in ("", "_low", "_high"):
            assert float(entry[f"robust_recall{end}"]) == pytest.approx(float(row[f"robust_accuracy{end}"]))
    shown = advdef("report", "runs", "--by-class", "--where", "defense=jpeg").out
    assert "40.0 [33,47]" in shown
    assert "1 60.0" in shown


def test_gates_judge_the_rows_all_the_same(advdef: Advdef, store: Path) -> None:
    ended = advdef("report", "runs", "--compare", "defense", "--fail-under", "robust_accuracy=0.3")
    assert ended.code == 1
    assert "none pgd linf eps 0.1 n 200: robust_accuracy 0.2 is below 0.3" in ended.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--compare", "defense", "--protocols"), "--leaderboard, --compare, --protocols, --union and --by-class each"),
        (("--compare", "defence"), "--compare 'defence': did you mean 'defense'?"),
        (
            ("--compare", "defense=none", "--with", "defense=rse"),
            "--compare 'defense=rse' fits no row: there is 'hrs', 'jpeg', 'none'",
        ),
        (("--compare", "defense=none"), "give the other row too, as in --with defense=hrs"),
        (("--compare", "defense=none", "defense=rse"), "give the other row too"),
        (
            ("--compare", "defense", "--with", "defense=rse"),
            "--compare defense compares all pairs of rows: leave --with out",
        ),
        (("--with", "defense=rse"), "give the first one with --compare"),
        (("--protocols", "--where", "defense=jpeg"), "--protocols: no row has several draws"),
        (("--union",), "--union: no model was attacked at a radius in two norms"),
    ],
)
def test_what_cannot_be_shown_is_one_line(advdef: Advdef, store: Path, words: tuple[str, ...], line: str) -> None:
    ended = advdef("report", "runs", *words)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert line in ended.err

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Advdef = Callable[..., Any]

QUICK = ("--set", "reprogramming.epochs=2", "--set", "shift=3", "--n", "50", "--task", "digits")


def test_a_row_a_checkpoint(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The table and the file say how well the model does the task; the same command again computes nothing."""
    words = ("reprogram", "--checkpoint", str(checkpoint), *QUICK, "-o", "table.csv")
    ended = advdef(*words)
    assert ended.code == 0, ended
    assert "reprogramming(shift=3,epochs=2)" in ended.out
    (row,) = csv.DictReader((here / "table.csv").read_text().splitlines())
    assert (row["task"], row["eot"], row["n"], row["repeats"], row["defense"]) == ("digits", "1", "50", "1", "none")
    assert 0 <= float(row["reprogrammed_accuracy_low"]) <= float(row["reprogrammed_accuracy"]) <= 1
    again = advdef(*words[:-1], "table.json")
    (same,) = json.loads((here / "table.json").read_text())
    assert again.code == 0
    assert str(same["seconds"]) == row["seconds"]
    assert "program:" not in again.err


SUITE = """
n: 5
defenses: [none, {name: hrs, channels: [2, 1]}, jpeg]
decision: [one-draw, deterministic]
attacks: fgsm
exclude: {defense: jpeg}
train: {epochs: 1}
"""


def test_a_row_a_model_of_a_suite(advdef: Advdef, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each rule of decision where draws decide; only those that the suite attacks; trained once, for a sweep too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    (here / "suite.yaml").write_text(SUITE)
    words = ("reprogram", "--suite", "suite.yaml", *QUICK, "-o", "table.csv")
    ended = advdef(*words)
    assert ended.code == 0, ended
    rows = list(csv.DictReader((here / "table.csv").read_text().splitlines()))
    assert [(row["defense"], row["eot"], row["repeats"]) for row in rows] == [
        ("none", "1", "1"),
        ("hrs(channels=[2,1])", "exact", "10"),
        ("hrs(decision=deterministic,channels=[2,1])", "1", "1"),
    ]
    assert rows[1]["checkpoint"] == rows[2]["checkpoint"]
    assert ended.err.count("training small-cnn") == 2
    assert "training small-cnn" not in advdef("sweep", "suite.yaml").err
    for more, told in (
        (("--defense", "hrs", "--epochs", "1"), "--suite names the models too: leave out --defense, --epochs"),
        (("--set", "train.epochs=2"), "--set train.epochs: no 'train' is used here; "),
    ):
        ended = advdef(*words, *more)
        assert ended.code == 2
        assert ended.err.startswith(f"advdef: error: {told}")


def test_wrong_words(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A parameter, an ending or a task that cannot be is told in one line."""
    for words, message in (
        (("--set", "reprogramming.kernal=5"), "did you mean 'kernel'?"),
        (("-o", "table.md"), "-o table.md: the ending selects the format: give one of .csv, .json"),
        (("--task", "digitz"), "digits"),
    ):
        ended = advdef("reprogram", "--checkpoint", str(checkpoint), *QUICK, *words)
        assert ended.code == 2
        assert message in ended.err


def test_it_is_an_attack_among_others(advdef: Advdef, here: Path) -> None:
    """It can be shown with all its parameters, and who gives it to another command is told whose it is."""
    told = json.loads(advdef("show", "attack", "reprogramming", "--format", "json").out)
    assert {each["name"] for each in told["parameters"]} == {"kernel", "shift", "epochs", "lr", "examples"}
    assert "1806.11146" in told["paper"]
    (here / "suite.yaml").write_text("attacks: [pgd,\n  reprogramming]")
    where = "reprogramming has a task and a command of its own: give advdef reprogram --task NAME\n"
    for words, place in (
        (("attack", "--attack", "reprogramming"), ""),
        (("sweep", "suite.yaml"), "suite.yaml, line 2: "),
    ):
        ended = advdef(*words)
        assert (ended.code, ended.err) == (2, f"advdef: error: {place}{where}")

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

Advdef = Callable[..., Any]

QUICK = ("--set", "reprogramming.epochs=2", "--set", "shift=3", "--n", "50", "--task", "digits")


def test_one_row_per_checkpoint(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The table and the file have its accuracy on the task, and a second run computes nothing."""
    command = ("reprogram", "--checkpoint", str(checkpoint), *QUICK, "-o", "table.csv")
    ended = advdef(*command)
    assert ended.code == 0, ended
    assert "reprogramming(shift=3,epochs=2)" in ended.out
    (row,) = csv.DictReader((here / "table.csv").read_text().splitlines())
    assert (row["task"], row["eot"], row["n"], row["repeats"], row["defense"]) == ("digits", "1", "50", "1", "none")
    correct = round(50 * float(row["reprogrammed_accuracy"]))
    assert float(row["reprogrammed_accuracy"]) == pytest.approx(correct / 50)
    interval = stats.binomtest(correct, 50).proportion_ci(method="wilson")
    ends = [float(row[f"reprogrammed_accuracy_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([interval.low, interval.high], abs=1e-9)
    second = advdef(*command[:-1], "table.json")
    (same,) = json.loads((here / "table.json").read_text())
    assert second.code == 0
    assert str(same["seconds"]) == row["seconds"]
    assert "program:" not in second.err


SUITE = """
n: 5
defenses: [none, {name: hrs, channels: [2, 1]}, jpeg]
decision: [one-draw, deterministic]
attacks: fgsm
exclude: {defense: jpeg}
train: {epochs: 1}
"""


def test_one_row_per_model_of_a_suite(advdef: Advdef, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each decision rule of a randomized model, only for the suite's models, and a sweep uses the same training."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    (here / "suite.yaml").write_text(SUITE)
    command = ("reprogram", "--suite", "suite.yaml", *QUICK, "-o", "table.csv")
    ended = advdef(*command)
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
    for more, message in (
        (("--defense", "hrs", "--epochs", "1"), "--suite names the models too: leave out --defense, --epochs"),
        (("--set", "train.epochs=2"), "--set train.epochs: 'train' is not used here; "),
    ):
        ended = advdef(*command, *more)
        assert ended.code == 2
        assert ended.err.startswith(f"advdef: error: {message}")


def test_a_usage_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """An unknown parameter, file ending or task is one line with exit code 2."""
    for options, message in (
        (("--set", "reprogramming.kernal=5"), "did you mean 'kernel'?"),
        (("-o", "table.md"), "-o table.md: the ending selects the format: give one of .csv, .json"),
        (("--task", "digitz"), "digits"),
    ):
        ended = advdef("reprogram", "--checkpoint", str(checkpoint), *QUICK, *options)
        assert ended.code == 2
        assert message in ended.err


def test_it_is_listed_as_an_attack(advdef: Advdef, here: Path) -> None:
    """'show' prints all its parameters, and the error of another command names its own command."""
    shown = json.loads(advdef("show", "attack", "reprogramming", "--format", "json").out)
    assert {parameter["name"] for parameter in shown["parameters"]} == {"kernel", "shift", "epochs", "lr", "examples"}
    assert "1806.11146" in shown["paper"]
    (here / "suite.yaml").write_text("attacks: [pgd,\n  reprogramming]")
    message = "reprogramming has a command of its own: run advdef reprogram --task NAME\n"
    for command, location in (
        (("attack", "--attack", "reprogramming"), ""),
        (("sweep", "suite.yaml"), "suite.yaml, line 2: "),
    ):
        ended = advdef(*command)
        assert (ended.code, ended.err) == (2, f"advdef: error: {location}{message}")

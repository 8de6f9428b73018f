from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.store.store import Store

Advdef = Callable[..., Any]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model under the suite ``standard``, whose images are said to be of CIFAR-10, and at another radius."""
    from robustbench_cli.cli.main import main

    folder = tmp_path_factory.mktemp("leaderboard")
    model = str(folder / "model.safetensors")
    train = ("train", "--dataset", "digits", "--model", "small-cnn", "--defense", "none", "--epochs", "2")
    assert main((*train, "-o", model, "-q")) == 0
    attack = ("attack", "--checkpoint", model, "--suite", "standard", "--eps", "8/255", "--eps", "0.05", "--n", "3")
    assert main((*attack, "--store", str(folder / "digits"), "-q", "-o", str(folder / "digits.csv"))) == 0
    measured, said = Store(folder / "digits"), Store(folder / "cifar10")
    for result in measured.results():
        cell = result.cell.model_copy(update={"dataset": "cifar10"})
        said.publish(result.model_copy(update={"cell": cell}), measured.outcomes_of(result).to_bytes())
    return folder


def test_the_standing_is_shown_in_every_form(advdef: Advdef, cifar10: Path, tmp_path: Path) -> None:
    """The terminal, CSV, JSON and Markdown have the same rank and neighbors; another radius is a warning."""
    command = ("report", str(cifar10 / "cifar10"), "--leaderboard", "cifar10-linf")
    outputs = [tmp_path / f"standing.{ending}" for ending in ("csv", "json", "md")]
    ended = advdef(*command, *(word for path in outputs for word in ("-o", str(path))))
    assert ended.code == 0, ended.err
    assert "warning: not on cifar10-linf: cifar10 small-cnn none linf 0.05: eps is 0.05, not 8/255" in ended.err
    rows = list(csv.DictReader(outputs[0].read_text().splitlines()))
    (here,) = [row for row in rows if row["place"] == "here"]
    reported = list(csv.DictReader((cifar10 / "digits.csv").read_text().splitlines()))
    (worst,) = [row for row in reported if row["attack"] == "worst-case" and row["eps"] == "8/255"]
    assert {key: here[key] for key in ("robust_accuracy", "robust_accuracy_low", "n")} == {
        key: worst[key] for key in ("robust_accuracy", "robust_accuracy_low", "n")
    }
    assert f"{here['rank']} [{here['rank_low']},{here['rank_high']}]  > small-cnn" in ended.out
    assert "RobustBench 1.1.1, 2025-04: the 76 models of its zoo, by lowest known robust accuracy" in ended.out
    assert "3 images, and 10000 on the leaderboard" in ended.out
    data = json.loads(outputs[1].read_text())
    assert [(row["place"], str(row["rank"]), row["model"]) for row in data] == [
        (row["place"], row["rank"], row["model"]) for row in rows
    ]
    page = outputs[2].read_text().splitlines()
    assert len(page) == 2 + len(rows)
    assert rows[0]["model"] in page[2]
    for name, path in zip(("csv", "json", "markdown"), outputs, strict=True):
        assert advdef(*command, "--format", name).out == path.read_text()


def test_rows_can_be_selected(advdef: Advdef, cifar10: Path) -> None:
    """With ``--where``, the rows of another radius are no warning."""
    command = ("report", str(cifar10 / "cifar10"), "--leaderboard", "cifar10-linf", "--where", "eps=8/255")
    ended = advdef(*command, "--format", "csv")
    assert (ended.code, "warning" in ended.err) == (0, False)


@pytest.mark.parametrize(
    ("store", "name", "line"),
    [
        ("digits", "cifar10-linf", "the data set is digits, not cifar10"),
        ("cifar10", "cifar10-l2", "the norm is linf, not l2"),
        ("cifar10", "cifar10", "unknown leaderboard 'cifar10': did you mean 'cifar10-corruptions'"),
    ],
)
def test_what_has_no_rank_is_one_line(advdef: Advdef, cifar10: Path, store: str, name: str, line: str) -> None:
    """Nothing is printed, and the exit code is that of a usage error."""
    ended = advdef("report", str(cifar10 / store), "--leaderboard", name)
    assert (ended.code, ended.out) == (2, "")
    assert line in ended.err.splitlines()[-1]

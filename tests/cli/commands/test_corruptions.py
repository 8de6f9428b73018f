"""Corruptions in the commands: the suite, the options, stores, tables and a published data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Advdef = Callable[..., Any]
FEW = ("--checkpoint", "model.safetensors", "--n", "20", "-q")

USERS_OWN = """
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption

class Dark(Corruption):
    share: float = 0.5
    def run(self, images, random):
        return images * (1 - self.share * self.severity / 5)
"""


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text."""
    return list(csv.DictReader(text.splitlines()))


def error_line(ended: Any) -> str:
    """The one line of a usage error."""
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    return str(line).removeprefix("advdef: error: ")


def test_the_suite(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """76 cells; at one severity 16 and the mean; a second time nothing is computed; a corruption alone is among them."""
    assert "76 cells" in advdef("sweep", "corruptions", "--status").out
    assert advdef("attack", *FEW, "--suite", "corruptions", "--severity", "2", "-o", "a.csv").code == 0
    table = rows((here / "a.csv").read_text())
    assert len(table) == 17
    assert [table[index]["corruption"] for index in (0, 1, -2, -1)] == [
        "",
        "gaussian-noise",
        "jpeg-compression",
        "mean(15 of 75)",
    ]
    assert {row["attack"] for row in table} == {"none"}
    accuracies = [float(row["robust_accuracy"]) for row in table[1:-1]]
    assert float(table[-1]["mean_corruption_accuracy"]) == pytest.approx(sum(accuracies) / 15)
    again = advdef("attack", *FEW[:-1], "--corruption", "fog", "--severity", "2", "--attack", "none")
    assert "1/1 cells cached" in again.err
    gate = ("report", "--where", "corruption=mean", "--fail-over", "mce=0.01")
    ungated = advdef(*gate)
    assert ungated.code == 3 and ungated.err.splitlines()[-1].endswith(
        "there is no mce to judge: give --corruption-baseline alexnet or FILE.csv"
    )
    assert "for the paper's mean corruption error (mCE)" in ungated.out
    gated = advdef(*gate, "--corruption-baseline", "a.csv")
    assert gated.code == 1
    assert gated.err.splitlines()[-1] == (
        "advdef: error: digits small-cnn none mean(15 of 75) none n 20: mce 1 is above 0.01"
    )
    # Nothing is attacked: the table has no columns of attacks, and fits a narrow terminal with its intervals.
    header = next(line for line in ungated.out.splitlines() if "defense" in line)
    assert header.split() == ["defense", "corruption", "severity", "attack", "robust", "passes"]
    normalized = rows(advdef("report", "--corruption-baseline", "a.csv", "--format", "csv").out)
    assert float(normalized[-1]["mce"]) == pytest.approx(1)
    assert normalized[-1]["mce_baseline"] == "a.csv"


def test_an_attack_after_a_corruption(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """PGD starts from the corrupted images: clean accuracy is theirs, and the worst case is one of each corruption."""
    (here / "suite.yaml").write_text(
        """
        defenses: {checkpoint: model.safetensors}
        n: 20
        corruptions: [none, {name: fog, severity: [3, 5]}]
        attacks: [none, {name: pgd, steps: 3}, {name: fgsm}]
        eps: 0.05
        exclude: {attack: fgsm, corruption: fog, severity: 5}
        """
    )
    assert advdef("sweep", "suite.yaml", "-q", "-o", "a.csv").code == 0
    table = rows((here / "a.csv").read_text())
    by_key = {(row["corruption"], row["severity"], row["attack"]): row for row in table}
    attacks = ("none", "pgd(steps=3)", "fgsm", "worst-case")
    expected = {
        (corruption, severity, attack) for corruption, severity in (("", ""), ("fog", "3")) for attack in attacks
    }
    expected |= {("fog", "5", attack) for attack in attacks[:2]} | {
        ("mean(2 of 75)", "", attack) for attack in attacks[:2]
    }
    assert {*by_key} == expected
    for severity in ("3", "5"):
        under_fog = by_key["fog", severity, "none"]
        assert by_key["fog", severity, "pgd(steps=3)"]["clean_accuracy"] == under_fog["robust_accuracy"]
        assert (under_fog["norm"], under_fog["eps"], under_fog["flags"]) == ("linf", "0", "")
    shown = advdef("report", "--where", "corruption=fog").out
    assert "clean in a row with a corruption: the accuracy on the corrupted images, before the attack" in shown
    planned = advdef("sweep", "suite.yaml", "--dry-run").out
    assert "corruption" in planned and "fog" in planned


def test_a_users_own_corruption(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """It is named by its file, takes parameters in a suite, and is another cell once it is edited."""
    (here / "dark.py").write_text(USERS_OWN)
    (here / "suite.yaml").write_text("attacks: none\ncorruptions: {name: 'dark.py:Dark', severity: 5, share: [0.5, 1]}")
    assert advdef("attack", *FEW, "--suite", "suite.yaml", "-o", "a.csv").code == 0
    labels = [row["corruption"] for row in rows((here / "a.csv").read_text())]
    assert labels == ["dark.py:Dark", "dark.py:Dark(share=1.0)"]
    (here / "dark.py").write_text(USERS_OWN.replace("* (1 -", "* (0.9 -"))
    assert advdef("attack", *FEW, "--suite", "suite.yaml", "-o", "b.csv").code == 0
    cells = [row["cell"] for name in ("a.csv", "b.csv") for row in rows((here / name).read_text())]
    assert len(set(cells)) == 4


def test_published_images(advdef: Advdef, here: Path) -> None:
    """The images of the files are attacked as they are, without the row of clean images."""
    (here / "c").mkdir()
    images = np.lib.format.open_memmap(here / "c" / "fog.npy", "w+", np.uint8, (50_000, 32, 32, 3))
    labels = np.tile(np.arange(10_000) % 10, 5).astype(np.uint8)
    for severity in range(5):
        images[10_000 * severity : 10_000 * severity + 20] = 20 * severity
    images.flush()
    np.save(here / "c" / "labels.npy", labels)
    (here / "model.py").write_text(
        "import torch\nclass Gray(torch.nn.Module):\n def forward(self, x):\n"
        "  return torch.nn.functional.one_hot((x.mean((1, 2, 3)) * 255 / 20).round().long().clamp(max=9), 10) * 2.0 - 1 + 0 * x.sum()\n"
        " def __init__(self):\n  super().__init__()\n  self.a = torch.nn.Parameter(torch.zeros(1))\n"
    )
    import torch

    torch.save({"a": torch.zeros(1)}, here / "gray.pt")
    model = ("--checkpoint", "gray.pt", "--model", "model.py:Gray", "--dataset", "cifar10-c:c", "--n", "20", "-q")
    assert advdef("attack", *model, "--corruption", "fog", "--attack", "none", "-o", "a.json").code == 0
    table = json.loads((here / "a.json").read_text())
    # Class k is right for every tenth image: two of twenty, and the gray value of severity k + 1 is class k.
    assert [(row["severity"], row["robust_accuracy"]) for row in table[:-1]] == [(s, 0.1) for s in range(1, 6)]
    assert error_line(advdef("attack", *model, "--attack", "none")).startswith(
        "cifar10-c:c has corrupted images only: give"
    )
    assert error_line(advdef("attack", *model, "--suite", "corruptions")).startswith(
        "cifar10-c:c has no file gaussian_noise"
    )
    assert "has no images to train on" in error_line(advdef("attack", "--dataset", "cifar10-c:c", "--suite", "quick"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--severity", "3"), "--severity is for a corruption: give --corruption fog too, or --corruption all"),
        (("--corruption", "foq"), "unknown corruption 'foq': did you mean 'fog'?"),
        (("--corruption", "fog", "--severity", "6"), "--severity: 6 is not in the range 1<=x<=5"),
        (
            ("--attack", "none", "--eps", "0.1"),
            "--eps changes nothing: the attack none leaves the images as they are: leave it out",
        ),
        (
            ("--suite", "corruptions", "--norm", "l2"),
            "--norm changes nothing: the attack none leaves the images as they are: leave it out",
        ),
    ],
)
def test_bad_options(advdef: Advdef, checkpoint: Path, options: tuple[str, ...], line: str) -> None:
    """One line each."""
    assert line in error_line(advdef("attack", *FEW, *options))


@pytest.mark.parametrize(
    ("corruptions", "line"),
    [
        ("[]", "suite.yaml, line 1: corruptions: is empty: give at least one value"),
        (
            "{name: fog, severity: 7}",
            "suite.yaml, line 1: corruptions.severity: input should be less than or equal to 5",
        ),
        ("[fog, {name: frost, depth: 2}]", "suite.yaml, line 1: frost has no parameter 'depth': known: severity"),
        (
            "{name: none, severity: 2}",
            "suite.yaml, line 1: the images without a corruption have no severity: leave it out",
        ),
        ("{name: all, depth: 2}", "suite.yaml, line 1: all is no single corruption and has no 'depth': leave it out"),
    ],
)
def test_bad_suites(advdef: Advdef, here: Path, checkpoint: Path, corruptions: str, line: str) -> None:
    """File, line and what would be right."""
    (here / "suite.yaml").write_text(f"corruptions: {corruptions}\nattacks: none\n")
    assert error_line(advdef("attack", *FEW, "--suite", "suite.yaml")) == line

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

Advdef = Callable[..., Any]

QUICK = ("--sigma", "0.25", "--samples", "200", "--n", "30")


def test_certified_accuracy_against_radius(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A row a radius, in the table and in the file, with a warning for a model that saw no noise; then nothing is new."""
    words = ("certify", "--checkpoint", str(checkpoint), *QUICK, "-o", "table.csv")
    ended = advdef(*words)
    assert ended.code == 0, ended
    assert "sigma 0.25, n0 100, samples 200, alpha 0.001" in ended.out
    assert "no-noise-training: the model was not trained with noise" in " ".join(ended.out.split())
    rows = list(csv.DictReader((here / "table.csv").read_text().splitlines()))
    # The largest radius is 0.25 times the normal quantile of 0.001 ** (1 / 200), 0.455.
    assert [float(row["eps"]) for row in rows] == [0, 0.125, 0.25, 0.375]
    accuracies = [float(row["certified_accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {(row["norm"], row["flags"], row["n"], row["alpha"]) for row in rows} == {
        ("l2", "no-noise-training", "30", "0.001")
    }
    assert "30 images, 30 of them certified now" in ended.err
    again = advdef(*words[:-1], "table.json", "--eps", "0.1", "--eps", "1/4", "--alpha", "0.05")
    assert "30 images, 0 of them certified now" in again.err
    assert [row["eps"] for row in json.loads((here / "table.json").read_text())] == [0.1, 0.25]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sigma", "0"), "sigma is 0: give the noise's standard deviation, above 0, such as 0.25"),
        (("--sigma", "-1"), "sigma is -1: "),
        (("--alpha", "0"), "alpha is 0: give the chance of a wrong certificate, between 0 and 1, such as 0.001"),
        (("--alpha", "1", "--eps", "0.1"), "alpha is 1: "),
        (("--n0", "0"), "n0 is 0: give a number of draws, at least 1"),
        (("--samples", "0"), "samples is 0: give a number of draws, at least 1"),
        (("--n", "0"), "--n: 0 is not in the range"),
        (("-o", "table.md"), "-o table.md: the ending selects the format: give one of .csv, .json"),
        (("--decision", "mean"), "advdef certify has no option --decision"),
    ],
)
def test_wrong_words(advdef: Advdef, here: Path, checkpoint: Path, words: tuple[str, ...], message: str) -> None:
    """What cannot be is told in one line, and nothing is written."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *QUICK, *words)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert not (here / "advdef-runs").exists()


def test_too_few_samples_for_any_certificate(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Nine draws bound no probability above one half at a chance of a thousandth, and the user is told."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *QUICK, "--samples", "9")
    assert ended.code == 0
    assert "warning: with 9 samples nothing can be certified at alpha 0.001" in ended.err
    assert "100.0" in ended.out


def test_without_noise_a_network_is_certified_itself(advdef: Advdef, here: Path) -> None:
    """In linf, at quarters of the usual radius, beside the attacks of the same model in the report."""
    words = ("--defense", "ibp", "--set", "ibp.eps=0.02", "--epochs", "8", "-q")
    ended = advdef("certify", *words, "--n", "40", "-o", "table.csv")
    assert ended.code == 0, ended
    assert "n 40, by intervals" in ended.out
    assert "linf radius" in ended.out
    rows = list(csv.DictReader((here / "table.csv").read_text().splitlines()))
    assert [float(row["eps"]) for row in rows] == pytest.approx([0, 0.0375, 0.075, 0.1125, 0.15])
    assert {(row["norm"], row["sigma"], row["alpha"], row["flags"]) for row in rows} == {("linf", "", "", "")}
    assert advdef("attack", *words, "--attack", "pgd", "--eps", "0.0375", "--n", "40").code == 0
    ended = advdef("report", "--format", "csv")
    (beside,) = csv.DictReader(ended.out.splitlines())
    assert float(beside["certified_accuracy"]) == pytest.approx(float(rows[1]["certified_accuracy"]))
    assert float(beside["certified_accuracy"]) <= float(beside["robust_accuracy"])


@pytest.mark.parametrize("words", [("--n0", "10"), ("--samples", "10"), ("--alpha", "0.1")])
def test_words_of_smoothing_need_its_noise(
    advdef: Advdef, here: Path, checkpoint: Path, words: tuple[str, str]
) -> None:
    """Draws without a word on the noise are a slip of the pen."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *words)
    assert ended.code == 2
    assert f"{words[0]} is for a smoothed model: give --sigma SIGMA" in ended.err


def test_a_model_that_intervals_cannot_follow(advdef: Advdef, here: Path) -> None:
    """The layer is named in one line, before anything is trained."""
    ended = advdef("certify", "--defense", "jpeg", "--epochs", "1")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "the model's logits cannot be bounded by intervals: its layer 0 is a Codec; " in ended.err
    assert ended.err.endswith("; or give --sigma SIGMA, such as 0.25, which certifies any model\n")


def test_a_model_whose_rows_share_draws(advdef: Advdef, here: Path) -> None:
    """Its draws are found not to be independent before anything is trained."""
    Path("shared.py").write_text(
        dedent(
            """
            import torch
            from torch import nn

            from robustbench_cli.defenses.base.defense import Defense

            __all__ = ["Shared"]

            class Shared(Defense):
                trained = True

                def protect(self, model, example):
                    return nn.Sequential(Noise(), model)

            class Noise(nn.Module):
                def forward(self, images):
                    return images + torch.randn(1)
            """
        )
    )
    ended = advdef("certify", "--defense", "shared.py:Shared", *QUICK)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "the rows of one pass share what this model draws" in ended.err


def test_the_report_has_certificates_beside_attacks(advdef: Advdef, here: Path) -> None:
    """The accuracy certified at an attack's radius stands in its row, and an attack that a certificate excludes is a fault."""
    smoothed = ("--defense", "randomized-smoothing", "--set", "decision=one-draw", "--epochs", "8", "-q")
    assert advdef("certify", *smoothed, *QUICK, "-o", "certified.csv", "--eps", "0.2").code == 0
    fast = ("--attack", "fgsm", "--eot", "1", "--norm", "l2", "--eps", "0.2", "--n", "40")
    assert advdef("attack", *smoothed, *fast).code == 0
    (row,) = csv.DictReader((here / "certified.csv").read_text().splitlines())
    ended = advdef("report", "--format", "csv", "-q")
    assert (ended.code, ended.err) == (0, "")
    (beside,) = csv.DictReader(ended.out.splitlines())
    assert float(beside["certified_accuracy"]) == pytest.approx(float(row["certified_accuracy"]))
    assert "certified" in advdef("report").out
    (path,) = (here / "advdef-runs" / "certification").glob("*.jsonl")
    said = json.loads(path.with_name(path.name.replace(".images.jsonl", ".json")).read_text())
    lines = []
    for place, label in enumerate(said["labels"]):
        body = json.dumps({"place": place, "top": (label + 1) % 10, "count": 200, "seconds": 0}).encode()
        lines.append(hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n")
    path.write_bytes(b"".join(lines))
    ended = advdef("report")
    assert ended.code == 0
    assert "of 30 images were broken inside their certified radius" in ended.err
    assert beside["cell"] in ended.err
    path.with_name(path.name.replace(".images.jsonl", ".json")).write_text("{")
    ended = advdef("report")
    assert ended.code == 3
    assert "is damaged, its content is not what was stored: remove it" in ended.err

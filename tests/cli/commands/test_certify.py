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
    """One row per radius in the table and the file, a flag for training without noise, and a second run computes nothing."""
    command = ("certify", "--checkpoint", str(checkpoint), *QUICK, "-o", "table.csv")
    ended = advdef(*command)
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
    second = advdef(*command[:-1], "table.json", "--eps", "0.1", "--eps", "1/4", "--alpha", "0.05")
    assert "30 images, 0 of them certified now" in second.err
    assert [row["eps"] for row in json.loads((here / "table.json").read_text())] == [0.1, 0.25]


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_a_usage_error(advdef: Advdef, here: Path, checkpoint: Path, options: tuple[str, ...], message: str) -> None:
    """It is one line with exit code 2, and nothing is written."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *QUICK, *options)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert not (here / "advdef-runs").exists()


def test_too_few_samples_for_any_certificate(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """With nine draws the lower bound at alpha 0.001 stays below one half; a warning says so."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *QUICK, "--samples", "9")
    assert ended.code == 0
    assert "warning: with 9 samples no image can be certified at alpha 0.001: give more --samples" in ended.err
    assert "100.0" in ended.out


def test_without_sigma_the_network_itself_is_certified(advdef: Advdef, here: Path) -> None:
    """In linf, at quarters of the usual radius; the report shows it beside the attacks of the same model, with the gap."""
    model = ("--defense", "ibp", "--set", "ibp.eps=0.02", "--epochs", "8", "-q")
    ended = advdef("certify", *model, "--n", "30", "-o", "table.csv")
    assert ended.code == 0, ended
    assert "n 30, method linear" in ended.out
    assert "linf radius" in ended.out
    rows = list(csv.DictReader((here / "table.csv").read_text().splitlines()))
    assert [float(row["eps"]) for row in rows] == pytest.approx([0, 0.0375, 0.075, 0.1125, 0.15])
    assert {(row["norm"], row["method"], row["alpha"], row["flags"]) for row in rows} == {("linf", "linear", "", "")}
    assert advdef("attack", *model, "--attack", "pgd", "--eps", "0.0375", "--n", "30").code == 0
    ended = advdef("report", "--format", "csv")
    (attacked,) = csv.DictReader(ended.out.splitlines())
    certified, robust = float(attacked["certified_accuracy"]), float(attacked["robust_accuracy"])
    assert certified == pytest.approx(float(rows[1]["certified_accuracy"]))
    assert certified <= robust
    assert float(attacked["certified_gap"]) == pytest.approx(robust - certified)
    assert advdef("certify", *model, "--n", "30", "--method", "intervals", "-o", "intervals.csv").code == 0
    intervals = list(csv.DictReader((here / "intervals.csv").read_text().splitlines()))
    for row, other in zip(rows[1:], intervals[1:], strict=True):
        assert float(row["certified_accuracy"]) >= float(other["certified_accuracy"])


def test_a_contradicted_proof_is_an_internal_error(advdef: Advdef, here: Path) -> None:
    """The report prints its table, and ends with exit code 4 and one line."""
    model = ("--defense", "none", "--epochs", "3", "-q")
    assert advdef("certify", *model, "--n", "6", "--eps", "0.2", "--method", "linear").code == 0
    assert advdef("attack", *model, "--attack", "pgd", "--eps", "0.2", "--n", "6").code == 0
    assert advdef("report", "-q").code == 0
    (path,) = (here / "advdef-runs" / "certification").glob("*.jsonl")
    header = json.loads(path.with_name(path.name.replace(".images.jsonl", ".json")).read_text())
    lines = []
    for index, label in enumerate(header["labels"]):
        body = json.dumps({"place": index, "predicted": label, "radius": 0.2000005, "seconds": 0}).encode()
        lines.append(hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n")
    path.write_bytes(b"".join(lines))
    ended = advdef("report", "-q")
    assert ended.code == 4
    assert "certified" in ended.out
    assert ended.err.count("\n") == 1
    assert "of 6 images were broken inside their certified radius, by linear in linf, which is impossible" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "linear", "--eps", "0"), "the method linear tries given radii: give an --eps above 0"),
        (
            ("--method", "crown"),
            "unknown method 'crown' (choose from auto, distance, intervals, linear, branch-and-bound)",
        ),
        (("--norm", "l2"), "no default eps for l2: pass --eps"),
        (("--norm", "l2", "--method", "intervals", "--eps", "1"), "interval bounds are in linf, not in l2"),
        (("--sigma", "0.25", "--norm", "l2"), "--norm is for a certificate of the model itself"),
        (("--sigma", "0.25", "--method", "linear"), "--method is for a certificate of the model itself"),
        (("--branches", "0", "--eps", "0.1"), "branches is 0: give a number of subproblems, at least 1"),
        (("--branches", "9", "--method", "linear"), "--branches is for --method branch-and-bound, not linear"),
    ],
)
def test_a_usage_error_of_methods(
    advdef: Advdef, here: Path, checkpoint: Path, options: tuple[str, ...], message: str
) -> None:
    """It is one line with exit code 2."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *options)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err


@pytest.mark.parametrize("option", [("--n0", "10"), ("--samples", "10"), ("--alpha", "0.1")])
def test_options_of_smoothing_need_sigma(advdef: Advdef, here: Path, checkpoint: Path, option: tuple[str, str]) -> None:
    """Without sigma they are a usage error that names the option."""
    ended = advdef("certify", "--checkpoint", str(checkpoint), *option)
    assert ended.code == 2
    assert f"{option[0]} is for a smoothed model: give --sigma SIGMA" in ended.err


def test_a_model_without_bounds(advdef: Advdef, here: Path) -> None:
    """It is one line that names the layer, before anything is trained."""
    ended = advdef("certify", "--defense", "jpeg", "--epochs", "1")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert (
        "the model's logits cannot be bounded by linear relaxation: its layer 0 is a Codec, whose forward pass cannot be "
        in ended.err
    )
    assert ended.err.endswith("; or give --sigma SIGMA, such as 0.25, which certifies any model\n")


def test_a_model_whose_rows_share_draws(advdef: Advdef, here: Path) -> None:
    """It is one line, before anything is trained."""
    Path("shared.py").write_text(
        dedent(
            """
            import torch
            from torch import nn

            from robustbench_cli.defenses.base.defense import Defense

            __all__ = ["Shared"]

            class Shared(Defense):
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
    """A row has the accuracy certified at its radius. An attack that contradicts a certificate is reported, and a damaged file."""
    smoothed = ("--defense", "randomized-smoothing", "--set", "decision=one-draw", "--epochs", "8", "-q")
    assert advdef("certify", *smoothed, *QUICK, "-o", "certified.csv", "--eps", "0.2").code == 0
    fgsm = ("--attack", "fgsm", "--eot", "1", "--norm", "l2", "--eps", "0.2", "--n", "40")
    assert advdef("attack", *smoothed, *fgsm).code == 0
    (row,) = csv.DictReader((here / "certified.csv").read_text().splitlines())
    ended = advdef("report", "--format", "csv", "-q")
    assert (ended.code, ended.err) == (0, "")
    (attacked,) = csv.DictReader(ended.out.splitlines())
    assert float(attacked["certified_accuracy"]) == pytest.approx(float(row["certified_accuracy"]))
    assert "certified" in advdef("report").out
    (path,) = (here / "advdef-runs" / "certification").glob("*.jsonl")
    header = json.loads(path.with_name(path.name.replace(".images.jsonl", ".json")).read_text())
    lines = []
    for index, label in enumerate(header["labels"]):
        body = json.dumps({"place": index, "top": (label + 1) % 10, "count": 200, "seconds": 0}).encode()
        lines.append(hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n")
    path.write_bytes(b"".join(lines))
    ended = advdef("report")
    assert ended.code == 0
    assert "of 30 images were broken inside their certified radius" in ended.err
    assert attacked["cell"] in ended.err
    path.with_name(path.name.replace(".images.jsonl", ".json")).write_text("{")
    ended = advdef("report")
    assert ended.code == 3
    assert "is damaged, its content is not what was stored: remove it" in ended.err

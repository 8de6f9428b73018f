from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.evaluation.checks.no_gradients import NoGradients

Run = Callable[..., Any]

ATTACK = ("attack", "--checkpoint", "model.safetensors", "--attack", "fgsm", "--attack", "square", "-q")

SHORT = ("--set", "square.queries=20")

QUICK = ("audit", "--checkpoint", "model.safetensors", "--budget", "quick", "--n", "40")


def test_a_model_is_audited_and_its_rows_are_judged(advdef: Run, here: Path, checkpoint: Path) -> None:
    """The cost is told first, what was left out at the end; the second time nothing runs."""
    assert advdef(*ATTACK, *SHORT, "--n", "400").code == 0
    first = advdef(*QUICK)
    assert first.code == 0, first.err
    assert "checks on 40 images, at most" in first.err
    assert " passes, about " in first.err
    assert "none, linf, 400 images: consistent (" in first.out
    assert "checks found nothing (in the model on 40 images, budget quick)" in first.out
    assert "checks left out)" in first.out or "check left out)" in first.out
    assert "left out: " in first.out
    assert "not-converged" in first.out
    again = advdef(*QUICK)
    assert again.out == first.out
    assert "checks cached in" in again.err
    assert "at most" not in again.err
    assert advdef("audit").out == first.out


def test_strict_is_a_gate(advdef: Run, here: Path, checkpoint: Path) -> None:
    """One line names the first verdict that is not consistent; without the option it is only a verdict."""
    assert advdef(*ATTACK, *SHORT, "--n", "20").code == 0
    assert advdef("audit").code == 0
    strict = advdef("audit", "--strict")
    assert strict.code == 1
    assert strict.err.splitlines()[-1].endswith(
        "--strict: digits, small-cnn, none, linf, 20 images: suspicious: few-images"
    )
    assert advdef("audit", "--fail-on-verdict", "broken").code == 0
    assert advdef("audit", "--fail-on-verdict", "suspicious").code == 1
    informational = advdef("audit", "--strict", "--informational")
    assert informational.code == 0
    assert "warning: --strict: digits" in informational.err
    assert advdef("audit", "--strict", "--fail-on-verdict", "broken").code == 2


def test_an_audit_is_written_to_files(advdef: Run, here: Path, checkpoint: Path) -> None:
    """Each file has what the format of its ending prints; another ending is refused before anything runs."""
    assert advdef(*ATTACK, *SHORT, "--n", "20").code == 0
    ended = advdef("audit", "-o", "a.json", "-o", "pages/a.html", "-o", "a.xml", "--strict")
    assert ended.code == 1
    for path, form in (("a.json", "json"), ("pages/a.html", "html"), ("a.xml", "junit")):
        assert Path(path).read_text(encoding="utf-8") == advdef("audit", "--format", form).out
    refused = advdef(*QUICK, "-o", "b.json", "-o", "b.csv")
    assert refused.code == 2
    assert refused.err == (
        "advdef: error: -o b.csv: the ending selects the format: give one of .json, .md, .html, .xml, .sarif\n"
    )
    assert not Path("b.json").exists()


def test_a_gate_on_findings_needs_intact_audits(advdef: Run, here: Path, checkpoint: Path) -> None:
    """What a damaged record found is not known: figures stand with a warning, and gates on flags and verdicts end with 3."""
    assert advdef(*QUICK).code == 0
    damaged = next(iter((here / "advdef-runs" / "audits").glob("*.json")))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    attack = (*ATTACK, *SHORT, "--n", "20")
    ended = advdef(*attack, "--fail-under", "robust_accuracy=0")
    assert (ended.code, f"warning: {damaged.relative_to(here)} is damaged" in ended.err) == (0, True)
    for gate in (("--fail-on-verdict", "broken"), ("--fail-on-flag", "any")):
        ended = advdef(*attack, *gate)
        assert (ended.code, f"{damaged.relative_to(here)} is damaged" in ended.err) == (3, True)


def test_a_row_that_is_missing_ends_with_three(advdef: Run, here: Path, checkpoint: Path) -> None:
    """The others are judged."""
    assert advdef(*ATTACK, *SHORT, "--n", "20", "--eps", "0.1", "--eps", "0.2").code == 0
    next(iter((here / "advdef-runs" / "cells").glob("*.json"))).unlink()
    ended = advdef("audit", "--strict")
    assert ended.code == 3
    assert "is missing" in ended.err
    assert "20 images: suspicious" in ended.out
    assert "--strict: " in ended.err


def test_an_audit_of_a_model_whose_rows_are_damaged_ends_with_three(advdef: Run, here: Path, checkpoint: Path) -> None:
    """As that of the store does: rows that are not judged are no consistent ones."""
    assert advdef(*ATTACK, *SHORT, "--n", "20").code == 0
    damaged = next(iter((here / "advdef-runs" / "cells").glob("*.npz")))
    damaged.write_bytes(damaged.read_bytes()[:40])
    ended = advdef(*QUICK)
    assert ended.code == 3
    assert str(damaged.name) in ended.err


@pytest.mark.parametrize("form", ["json", "markdown", "junit"])
def test_each_format_is_printed_alone(advdef: Run, here: Path, checkpoint: Path, form: str) -> None:
    """Stdout has the report and nothing else."""
    ended = advdef(*QUICK, "--format", form)
    assert ended.code == 0, ended.err
    if form == "json":
        (group,) = json.loads(ended.out)
        assert (group["verdict"], group["budget"], group["n"]) == ("consistent", "quick", 40)
    elif form == "junit":
        assert ET.fromstring(ended.out).tag == "testsuites"
    else:
        assert ended.out.startswith("| rows | verdict |")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audit",), "no store at"),
        (("audit", "nowhere"), "no store at nowhere"),
        (("audit", "nowhere", "--budget", "quick"), "judged without running a model, and --budget is for a model"),
        (("audit", "nowhere", "--seed", "3"), "--seed changes nothing"),
        (("audit", "nowhere", "--store", "elsewhere"), "--store changes nothing"),
        (("audit", "nowhere", "--checkpoint", "model.safetensors"), "and --checkpoint is for a model"),
        (("audit", "--checkpoint", "nothing.safetensors"), "nothing.safetensors"),
        (("audit", "--checkpoint", "model.safetensors", "--norm", "l2"), "no default eps for l2: give --eps"),
        (("audit", "--checkpoint", "model.safetensors", "--eps", "0"), "eps is 0"),
        (("audit", "--checkpoint", "model.safetensors", "--norm", "l0"), "linf, l2, l1"),
        (("audit", "--checkpoint", "model.safetensors", "--dataset", "npz:gone.npz"), "gone.npz"),
        (("audit", "--checkpoint", "model.safetensors", "--budget", "large"), "large"),
    ],
)
def test_a_mistake_is_one_line(advdef: Run, here: Path, checkpoint: Path, words: tuple[str, ...], message: str) -> None:
    """With exit code 2, and nothing is stored."""
    ended = advdef(*words)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not list(here.glob("advdef-runs/audits/*"))


def test_an_empty_store_has_nothing_to_judge(advdef: Run, here: Path) -> None:
    """And says so."""
    (here / "empty" / "cells").mkdir(parents=True)
    ended = advdef("audit", "empty")
    assert (ended.code, ended.out) == (2, "")
    assert "empty has no results" in ended.err


def test_what_the_model_shows_is_in_every_report(
    advdef: Run, here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flag stands in the rows of the model; a merge takes it along, and verify reads it."""
    found = NoGradients("no-gradients").finding("as a test wants it")
    monkeypatch.setattr(NoGradients, "finding_in_model", lambda *_: found)
    assert advdef(*QUICK, "--strict").code == 1
    shown = advdef(*ATTACK, *SHORT, "--n", "20")
    # The rows, and the meaning of the flag below them.
    assert shown.out.count("no-gradients") == 3 + 1
    report = advdef("report", "--format", "csv")
    rows = list(csv.DictReader(report.out.splitlines()))
    assert [row["flags"] for row in rows] == ["no-gradients"] * 3
    assert "results of checks, 0 damaged" in advdef("store", "verify").out
    assert "results of checks from advdef-runs" in advdef("store", "merge", "advdef-runs", "other").out
    assert "no-gradients: as a test wants it" in advdef("audit", "other").out


def test_rows_weaker_than_the_audit_are_named(advdef: Run, here: Path, checkpoint: Path) -> None:
    """One query of Square breaks less than PGD, on the images that both attacked; the store alone shows it afterwards."""
    weak = ("attack", "--checkpoint", "model.safetensors", "--attack", "square", "--set", "square.queries=1", "-q")
    assert advdef(*weak, "--n", "200").code == 0
    line = "weaker-than-audit: at eps 0.15 PGD with 20 steps in the audit leaves "
    assert line in advdef(*QUICK).out
    shown = advdef("audit").out
    assert f"  broken: {line}" in shown
    assert " of 40 images, and the attacks of the rows leave " in shown

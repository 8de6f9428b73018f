from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..benchmarks.reports.pipeline_files import read_junit, read_sarif
from .scored_store import FGSM, add

SUITE = """\
defenses: [none]
attacks:
  - pgd
  - fgsm
gates:
  - robust_accuracy_low=0.3
  - {fail-under: robust_accuracy=0.9, where: attack=fgsm}
n: 40
eps: [0.1]
"""


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a robust accuracy of 75 % under each of two attacks, and a suite whose second gate is broken."""
    monkeypatch.chdir(tmp_path)
    right = [True, True, True, False] * 10
    add(tmp_path / "runs", right)
    add(tmp_path / "runs", right, attack=FGSM, flags=("no-eot",))
    (tmp_path / "gate.yaml").write_text(SUITE)
    return tmp_path


def test_a_report_obeys_the_gates_of_a_suite(gated: Path, advdef: Callable[..., Any]) -> None:
    """In all formats of pipelines, with exit code 1; with --informational 0, and the same lines."""
    told = "fgsm linf eps 0.1 n 40: robust_accuracy 0.75 is below 0.9"
    report = ("report", "runs", "--suite", "gate.yaml")
    ended = advdef(*report, "-o", "a.xml", "-o", "a.sarif")
    assert ended.code == 1
    assert told in ended.err
    suites = read_junit(Path("a.xml").read_text(encoding="utf-8"))
    assert [(suite.name, suite.tests, suite.failures) for suite in suites] == [("gates", 4, 1), ("cells", 3, 0)]
    results = read_sarif(Path("a.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    lines = {
        (result["ruleId"], result["locations"][0]["physicalLocation"]["region"]["startLine"]) for result in results
    }
    assert ("fail-under", 7) in lines
    assert ("no-eot", 4) in lines
    ended = advdef("report", "runs", "--fail-under", "robust_accuracy=0.9", "-o", "b.sarif")
    results = read_sarif(Path("b.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    places = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results]
    assert places == ["model.safetensors"] * 4
    ended = advdef(*report, "--informational")
    assert ended.code == 0
    assert f"advdef: warning: digits small-cnn none {told} (--informational: the exit code is 0)\n" in ended.err
    assert "passed: --fail-under robust_accuracy_low=0.3\n" in ended.err


def test_github_gets_annotations_and_a_summary(
    gated: Path, advdef: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary is added to the file that GitHub names."""
    (gated / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(gated / "summary.md"))
    ended = advdef("report", "runs", "--suite", "gate.yaml", "--format", "github")
    assert ended.code == 1
    assert ended.out.startswith("::error file=gate.yaml,line=7,title=advdef fail-under::")
    assert all(line.startswith("::") for line in ended.out.splitlines())
    summary = (gated / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("before\n### Adversarial robustness")
    assert "\n- ✗ --fail-under robust_accuracy=0.9" in summary
    assert summary.count("| worst-case |") == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(gated / "runs"))
    ended = advdef("report", "runs", "--format", "github")
    assert (ended.code, "GITHUB_STEP_SUMMARY=" in ended.err) == (2, True)


def test_flags_and_verdicts_are_gates(gated: Path, advdef: Callable[..., Any]) -> None:
    """Of forty images the interval is too wide, which an audit finds suspicious; nothing is broken."""
    assert advdef("report", "runs", "--fail-on-flag", "no-eot").code == 1
    assert advdef("report", "runs", "--fail-on-flag", "unstable").code == 0
    assert advdef("report", "runs", "--fail-on-verdict", "broken").code == 0
    ended = advdef("report", "runs", "--fail-on-verdict", "suspicious")
    assert ended.code == 1
    assert "the audit says suspicious: " in ended.err
    ended = advdef("report", "runs", "--fail-on-flag", "no-eto")
    assert (ended.code, "did you mean 'no-eot'" in ended.err) == (2, True)


def test_a_report_by_a_suite_judges_its_cells_and_misses_those_that_never_ran(
    gated: Path, advdef: Callable[..., Any]
) -> None:
    """A weak row at another radius is not of the suite; a radius that was added to the suite has no row."""
    suite = "attacks: [pgd]\nn: 40\neps: [0.1]\ngates: [robust_accuracy=0.7]\n"
    add(gated / "runs", [False] * 40, eps=0.3)
    (gated / "one.yaml").write_text(suite)
    ended = advdef("report", "runs", "--suite", "one.yaml", "--format", "csv")
    assert (ended.code, len(ended.out.splitlines())) == (0, 2)
    (gated / "one.yaml").write_text(suite.replace("[0.1]", "[0.1, 0.2]"))
    ended = advdef("report", "runs", "--suite", "one.yaml")
    assert ended.code == 3
    assert "pgd" in ended.err
    assert "0.2" in ended.err
    assert "missing" in ended.err
    (gated / "one.yaml").write_text("gates: [robust_accuracy=0.7]\n")
    ended = advdef("report", "runs", "--suite", "one.yaml")
    assert (ended.code, "linf eps 0.3 n 40: robust_accuracy 0 is below 0.7" in ended.err) == (1, True)


def test_a_suite_without_gates_is_no_suite_to_report_by(gated: Path, advdef: Callable[..., Any]) -> None:
    """The option would change nothing."""
    ended = advdef("report", "runs", "--suite", "standard")
    assert (ended.code, ended.out) == (2, "")
    assert "--suite standard has no gates" in ended.err

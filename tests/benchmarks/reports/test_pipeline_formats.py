from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.evaluation.checks import registry as checks
from robustbench_cli.benchmarks.reports.cases import Case
from robustbench_cli.benchmarks.reports.gate_options import GATES
from robustbench_cli.benchmarks.reports.pipeline_formats import github, junit, marks, sarif
from robustbench_cli.core.strict_yaml import Position

from .pipeline_files import read_junit, read_sarif

CASES = [
    Case("gates", "fail-under", "a: row 1", "passed", "0.5 is at least 0.4", position=Position("my gate.yaml", 9)),
    Case("gates", "fail-under", "a: row 2", "failed", "0.3 is below 0.4, 100%", position=Position("my gate.yaml", 9)),
    Case("gates", "max-drop", "b: row 1", "error", "no baseline"),
    Case("gates", "max-drop", "b: row 2", "failed", "fell", severity="warning"),
    Case("cells", "cell", "row 1", "passed", flags=("no-eot",), position=Position("my gate.yaml", 3), identity="r1"),
    Case("cells", "cell", "row 2", "error", "out of memory", checkpoint="timm:vit a"),
    Case("cells", "cell", "row 3", "skipped", "missing"),
]


def test_junit_is_read_by_others() -> None:
    """The schema of Jenkins holds, and junitparser counts what is here."""
    suites = read_junit(junit(CASES))
    assert [(suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) for suite in suites] == [
        ("gates", 4, 2, 1, 0),
        ("cells", 3, 0, 1, 1),
    ]
    assert (suites.tests, suites.failures, suites.errors) == (7, 2, 2)
    case = list(next(iter(suites)))[1]
    assert (case.name, case.result[0].message, case.result[0].type) == (
        "a: row 2",
        "0.3 is below 0.4, 100%",
        "fail-under",
    )
    assert read_junit(junit([])).tests == 0


def test_junit_has_the_seconds_of_cells() -> None:
    """Each case has its own, and a suite the sum."""
    cases = [Case("cells", "cell", f"row {seconds}", "passed", seconds=seconds) for seconds in (1.5, 2.25)]
    suites = read_junit(junit(cases))
    assert (suites.time, [case.time for case in next(iter(suites))]) == (3.75, [1.5, 2.25])


def test_annotations_are_workflow_commands() -> None:
    """Each is one command with the file and line; what passes has none, and a last line counts."""
    lines = github(CASES).splitlines()
    assert lines == [
        "::error file=my gate.yaml,line=9,title=advdef fail-under::a: row 2: 0.3 is below 0.4, 100%25",
        "::error title=advdef max-drop::b: row 1: no baseline",
        "::warning title=advdef max-drop::b: row 2: fell",
        "::warning file=my gate.yaml,line=3,title=advdef cell::row 1: flags no-eot",
        "::error title=advdef cell::row 2: out of memory",
        "::warning title=advdef cell::row 3: missing",
        "::notice title=advdef::gates: 1 error, 2 failed, 1 passed; cells: 1 error, 1 passed, 1 skipped",
    ]


def test_the_path_of_an_annotation_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub matches it with the files of the repository; a comma or colon in it ends no property."""
    monkeypatch.chdir(tmp_path)
    case = Case("gates", "fail-under", "a", "failed", position=Position(str(tmp_path / "a,b:c.yaml"), 2))
    assert github([case]).startswith("::error file=a%2Cb%3Ac.yaml,line=2,title=")


def test_sarif_follows_the_schema_of_oasis() -> None:
    """A rule for each gate and check; a result for what is not as it should be, with its place and a stable fingerprint."""
    (run,) = read_sarif(sarif(CASES))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [*(gate.name for gate in GATES), "cell", *checks.names()]
    results = run["results"]
    assert [(result["ruleId"], result["level"]) for result in results] == [
        ("fail-under", "error"),
        ("max-drop", "error"),
        ("max-drop", "warning"),
        ("no-eot", "warning"),
        ("cell", "error"),
        ("cell", "note"),
    ]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in results)
    # GitHub refuses the whole file where a result has no file, and a colon would make the name a scheme.
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert [(place["artifactLocation"]["uri"], place["region"]["startLine"]) for place in places] == [
        ("my%20gate.yaml", 9),
        ("pyproject.toml", 1),
        ("pyproject.toml", 1),
        ("my%20gate.yaml", 3),
        ("timm%3Avit%20a", 1),
        ("pyproject.toml", 1),
    ]
    prints = [result["partialFingerprints"]["advdef/v1"] for result in results]
    again = read_sarif(sarif(CASES[::-1]))["runs"][0]["results"]
    assert sorted(result["partialFingerprints"]["advdef/v1"] for result in again) == sorted(prints)


def test_markdown_lists_what_did_not_pass() -> None:
    """And how many gates passed; the list stays short enough for a comment."""
    assert [passed for passed, _ in marks(CASES)] == [False, None, False, None, None, True]
    assert marks(CASES)[-1] == (True, "1 of 4 tests of gates passed")
    assert marks(CASES[4:5]) == []
    many = marks([CASES[1]] * 200)
    assert (len(many), many[-1]) == (101, (None, "and 100 more"))
    ((_, long), *_) = marks([Case("gates", "fail-under", "row", "failed", "x" * 1000)])
    assert (len(long), long[-4:]) == (400, "x...")

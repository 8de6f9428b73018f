from __future__ import annotations

import json

from robustbench_cli.benchmarks.audit.formats import FORMATS
from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut, ThreatFigures
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding

from ..reports.pipeline_files import read_junit, read_sarif

HOSTILE = 'a|b<script>&\x1b[31m"x"\u202e'

GROUPS = [
    AuditedRows(
        dataset="digits",
        model=HOSTILE,
        checkpoint="model.safetensors",
        checkpoint_sha256="c" * 64,
        defense="none",
        norm="linf",
        n=500,
        threats=(
            ThreatFigures(
                eps="8/255",
                targeted="no",
                seed=0,
                attacks=("pgd", "cw-pgd"),
                clean_accuracy=0.9,
                robust_accuracy=0.4,
                robust_accuracy_low=0.36,
                robust_accuracy_high=0.44,
            ),
        ),
        findings=(
            Finding(check="zero-gradient", severity="broken", evidence=f"at eps 8/255: {HOSTILE}", figures={"a": 0.5}),
            Finding(check="few-images", severity="suspicious", evidence="too few"),
        ),
        left_out=(LeftOut(check="not-converged", reason="it needs the budget standard"),),
        budget="quick",
    ),
    AuditedRows(
        dataset="digits",
        model="m",
        checkpoint="",
        checkpoint_sha256="",
        defense="hrs",
        norm="l2",
        n=4,
        passed=("few-images", "no-eot"),
        budget="standard",
        audited_n=500,
    ),
]


def test_the_text_has_the_verdict_the_figures_and_the_evidence() -> None:
    """One line each, and what a file says is escaped."""
    lines = FORMATS["table"](GROUPS).splitlines()
    assert lines[0].endswith("none, linf, 500 images: broken (1 check left out)")
    assert lines[1] == "  eps 8/255: clean 90.0, robust 40.0 [36.0, 44.0] under pgd, cw-pgd"
    assert lines[2].startswith("  broken: zero-gradient: at eps 8/255: ")
    assert lines[3] == "  suspicious: few-images: too few"
    assert lines[4] == "  left out: not-converged (it needs the budget standard)"
    assert lines[5:] == [
        "",
        "digits, m, hrs, l2, 4 images: consistent",
        "  2 checks found nothing (in the model on 500 images, budget standard)",
    ]
    assert all(line.isprintable() for line in lines)


def test_json_has_everything() -> None:
    """As the models have it, with the verdict."""
    first, second = json.loads(FORMATS["json"](GROUPS))
    assert AuditedRows.model_validate({key: value for key, value in first.items() if key != "verdict"}) == GROUPS[0]
    assert (first["verdict"], second["verdict"]) == ("broken", "consistent")
    assert first["model"] == HOSTILE


def test_markdown_is_a_table() -> None:
    """Four columns in each row, whatever a name holds; the figures come before the findings."""
    lines = FORMATS["markdown"](GROUPS).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3 + 1
    assert "eps 8/255: clean 90.0, robust 40.0" in table[2]
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)
    assert "<script>" not in "".join(lines)
    assert "left out: not-converged" in lines[-1]


def test_junit_follows_the_schema() -> None:
    """A test suite per group with a case per check; what a file says is escaped."""
    suites = list(read_junit(FORMATS["junit"](GROUPS)))
    assert [(suite.tests, suite.failures, suite.skipped) for suite in suites] == [(3, 2, 1), (2, 0, 0)]
    (failure,) = next(iter(suites[0])).result
    assert failure.type == "zero-gradient"
    assert failure.message.startswith("broken: at eps 8/255: ")
    assert failure.text == failure.message
    assert failure.text.isprintable()


def test_github_and_sarif_show_findings() -> None:
    """A broken verdict is an error, a suspicious one a warning; a skipped check is only in SARIF."""
    lines = FORMATS["github"](GROUPS).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::warning", "::notice"]
    assert "digits, a|b<script>&" in lines[0]
    results = read_sarif(FORMATS["sarif"](GROUPS))["runs"][0]["results"]
    assert [(result["ruleId"], result["level"]) for result in results] == [
        ("zero-gradient", "error"),
        ("few-images", "warning"),
        ("not-converged", "note"),
    ]
    uris = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}
    assert uris == {"model.safetensors"}


def test_html_is_a_page() -> None:
    """That of tests/benchmarks/audit/test_page.py."""
    assert FORMATS["html"](GROUPS).startswith("<!doctype html>")

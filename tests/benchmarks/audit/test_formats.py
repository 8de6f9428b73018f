from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from robustbench_cli.benchmarks.audit.formats import FORMATS
from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut, ThreatFigures
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding

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
    """Four columns in each row, whatever a name holds."""
    lines = FORMATS["markdown"](GROUPS).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 2 + 1
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)
    assert "<script>" not in "".join(lines)
    assert "left out: not-converged" in lines[-1]


@pytest.mark.parametrize("number", [0, 1])
def test_junit_follows_the_schema(number: int) -> None:
    """The counts are those of the cases, and only elements and attributes that readers of JUnit know occur."""
    root = ET.fromstring(FORMATS["junit"](GROUPS))
    assert root.tag == "testsuites"
    suite = root[number]
    assert {*suite.attrib} == {"name", "tests", "failures", "errors", "skipped", "time"}
    cases = suite.findall("testcase")
    assert len(suite) == len(cases) == int(suite.attrib["tests"])
    assert all({*case.attrib} == {"classname", "name", "time"} for case in cases)
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"]) == [2, 0][number]
    assert len(suite.findall("testcase/skipped")) == int(suite.attrib["skipped"]) == [1, 0][number]
    if number == 0:
        failure = suite.find("testcase/failure")
        assert failure is not None
        assert failure.attrib["type"] == "broken"
        assert failure.text == failure.attrib["message"]
        assert failure.text is not None
        assert failure.text.isprintable()

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from robustbench_cli.benchmarks.reports.cases import Case
from robustbench_cli.benchmarks.reports.evidence.statement import evidence
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.core.errors import UserError

from ..html.conftest import MakeContent

SCHEMA = json.loads((Path(__file__).parents[4] / "docs/evidence.schema.json").read_text(encoding="utf-8"))


def read(content: PageContent, *cases: Case) -> Any:
    """The statement, which the schema of the documentation and the library of in-toto accept."""
    text = evidence(content, cases)
    statement = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(statement)
    Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement())).validate()
    return statement


def gate(outcome: Any, **others: Any) -> Case:
    return Case("gates", "robust_accuracy", f"gate {outcome}", outcome, **others)


def test_statement_of_every_row(make_content: MakeContent) -> None:
    """One subject a model, one evaluation a row, and counts whose quotients are the shares."""
    content = make_content("none")
    predicate = read(content)["predicate"]
    assert [len(predicate[name]) for name in ("models", "evaluations", "audits")] == [3, len(content.table), 1]
    assert [entry["cell"] for entry in predicate["evaluations"]] == [*content.table["cell"]]
    for entry in predicate["evaluations"]:
        shares = [share for share in entry["results"].values() if isinstance(share, dict) and "numerator" in share]
        assert len(shares) >= 4
        for share in shares:
            assert math.isclose(share["numerator"] / share["denominator"], share["value"])
    worst = [entry for entry in predicate["evaluations"] if entry["attack"] == "worst-case"]
    assert worst
    assert all(len(entry["protocol"]["attacks"]) == len(entry["reproduce"]) == 2 for entry in worst)


def test_hostile_names_are_only_text(make_content: MakeContent) -> None:
    """In every field of a store; the file is ASCII."""
    text = "\x1b[31m\x7f</script>\n\u202e\U0001f642" + "x" * 10_000
    assert evidence(make_content(text), ()).replace("\n", "").isprintable()
    assert read(make_content(text))["predicate"]["models"][0]["name"] == text


@pytest.mark.parametrize(
    ("outcome", "severity", "doubts", "result"),
    [
        ("passed", "error", False, "PASSED"),
        ("passed", "error", True, "WARNED"),
        ("failed", "warning", False, "WARNED"),
        ("failed", "error", False, "FAILED"),
        ("error", "error", True, "FAILED"),
    ],
)
def test_only_gates_are_judged(
    outcome: str, severity: Any, doubts: bool, result: str, make_content: MakeContent
) -> None:
    """And with a flag, a finding or a missing cell no gate has passed without a warning."""
    content = make_content()
    if not doubts:
        content = replace(content, table=content.table.assign(flags=""), verdicts=[], missing=[], conflicts=[])
    assert read(content, gate(outcome, severity=severity))["predicate"]["judgment"]["result"] == result


def test_an_attack_that_ran_has_not_passed(make_content: MakeContent) -> None:
    """Without a gate nothing is judged, whatever the cells' test cases say."""
    judgment = read(make_content(), Case("cells", "cell", "pgd", "passed"))["predicate"]["judgment"]
    assert judgment == {"result": None, "passedTests": [], "warnedTests": [], "failedTests": []}


def test_a_report_without_rows_is_no_evidence(make_content: MakeContent) -> None:
    """A statement needs a subject."""
    content = make_content()
    with pytest.raises(UserError, match="there is no row: run 'advdef attack' first"):
        evidence(replace(content, table=content.table.head(0)), ())

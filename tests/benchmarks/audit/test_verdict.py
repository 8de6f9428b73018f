from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.audit.verdict import Audited, AuditedRows, LeftOut, by_severity, with_labels
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity


def finding(severity: Severity, check: str = "a", evidence: str = "b") -> Finding:
    return Finding(check=check, severity=severity, evidence=evidence)


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [([], "consistent"), (["suspicious"], "suspicious"), (["suspicious", "broken"], "broken"), (["broken"], "broken")],
)
def test_the_severest_finding_decides(severities: list[Severity], verdict: str) -> None:
    audited = Audited(findings=tuple(map(finding, severities)), budget="standard")
    assert audited.verdict == audited.headline == verdict
    assert audited.model_dump()["verdict"] == verdict


def test_what_was_left_out_stands_beside_the_verdict() -> None:
    """A verdict of fewer checks says so."""
    left_out = (LeftOut(check="a", reason="b"),)
    assert Audited(left_out=left_out, budget="quick").headline == "consistent (1 check left out)"
    assert Audited().headline == "consistent (the model was not run)"


def test_each_check_has_its_severest_finding() -> None:
    """Broken before suspicious, and the first of equal ones."""
    found = [
        finding("suspicious", "a", "1"),
        finding("suspicious", "b", "2"),
        finding("broken", "b", "3"),
        finding("suspicious", "a", "4"),
    ]
    assert [(one.check, one.evidence) for one in by_severity(found)] == [("b", "3"), ("a", "1")]


def test_models_of_equal_names_have_their_files_in_the_title() -> None:
    """The charts of a report tell them apart in the same way. One model in two norms is one model."""

    def group(checkpoint: str, defense: str = "none", norm: str = "linf") -> AuditedRows:
        names = {"dataset": "digits", "model": "m", "checkpoint": checkpoint, "checkpoint_sha256": checkpoint * 8}
        return AuditedRows(**names, defense=defense, norm=norm, n=4)

    labeled = with_labels([group("x/a.pt"), group("x/b.pt"), group("x/b.pt", norm="l2"), group("c.pt", "hrs")])
    assert [entry.title for entry in labeled] == [
        "digits, m, none, a.pt, linf, 4 images",
        "digits, m, none, b.pt, linf, 4 images",
        "digits, m, none, b.pt, l2, 4 images",
        "digits, m, hrs, linf, 4 images",
    ]
    assert [entry.title for entry in with_labels([group("a.pt"), group("a.pt", norm="l2")])] == [
        "digits, m, none, linf, 4 images",
        "digits, m, none, l2, 4 images",
    ]

from __future__ import annotations

import math
from typing import Any

from robustbench_cli.benchmarks.audit.verdict import AuditedRows
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.reports.verdicts import severest, verdict_key


def audited(*severities: Severity, **changes: Any) -> AuditedRows:
    """The rows of one model, with a finding of each severity."""
    fields = {"dataset": "digits", "model": "small-cnn", "checkpoint": "a", "checkpoint_sha256": "a" * 64}
    findings = tuple(Finding(check=severity, severity=severity, evidence="seen") for severity in severities)
    return AuditedRows(**(fields | {"defense": "none", "norm": "linf", "n": 4} | changes), findings=findings)


def test_the_severest_verdict_counts() -> None:
    """In any order; another norm and a corruption are other keys."""
    of_data = "a" * 64, "digits", "", "linf"
    groups = [audited(), audited("broken"), audited("suspicious"), audited(norm="l2"), audited(corruption="fog 3")]
    for some in (groups, groups[::-1]):
        assert severest(some) == {
            of_data: ("broken", "broken: seen"),
            (*of_data[:3], "l2"): ("consistent", ""),
            (*of_data[:2], "fog 3", "linf"): ("consistent", ""),
        }
    assert severest([]) == {}


def test_a_row_has_the_key_of_its_audit() -> None:
    """A column without a value is None or NaN."""
    row = {"checkpoint_sha256": "a" * 64, "dataset": "digits", "norm": "linf"}
    for nothing in (None, math.nan, ""):
        assert verdict_key(row | {"corruption": nothing, "severity": nothing}) in severest([audited()])
    assert verdict_key(row | {"corruption": "fog", "severity": 3}) in severest([audited(corruption="fog 3")])

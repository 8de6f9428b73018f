from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.benchmarks.audit.page import audit_page
from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut, ThreatFigures
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding

from ..reports.html.parsed_page import HOSTILE, Parsed


def groups(name: str) -> list[AuditedRows]:
    """A consistent group and a broken one, with every text from a file as a test gives it."""
    usual: dict[str, Any] = {"dataset": name, "model": name, "checkpoint": name, "checkpoint_sha256": "a" * 64}
    usual |= {"defense": name, "norm": "linf", "n": 4, "passed": ("few-images", name)}
    figures = {"clean_accuracy": 0.9, "robust_accuracy": 0.4, "robust_accuracy_low": 0.36, "robust_accuracy_high": 0.44}
    return [
        AuditedRows(**usual),
        AuditedRows(
            **usual,
            threats=(ThreatFigures(eps=name, targeted="no", seed=1, attacks=("pgd", name), **figures),),
            findings=(
                Finding(check="zero-gradient", severity="broken", evidence=f"at eps {name}"),
                Finding(check=name, severity="suspicious", evidence=name),
            ),
            left_out=(LeftOut(check="not-converged", reason=name),),
            budget="quick",
            audited_n=100,
        ),
    ]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:30])
def test_a_hostile_name_stays_text(name: str) -> None:
    """In every field: the elements and the attributes are those of a page with a harmless name."""
    # An option in a text, such as --x, has an element.
    harmless, hostile = Parsed(audit_page(groups("n" * len(name)))), Parsed(audit_page(groups(name)))
    assert hostile.shape() == harmless.shape()
    assert hostile.texts["script"] == harmless.texts["script"]
    assert hostile.hidden_characters() == []


def test_the_page_has_the_evidence_and_what_was_left_out() -> None:
    """The broken group comes first; each finding says what to do, and each threat has its interval."""
    source = audit_page(groups("any"))
    parsed = Parsed(source)
    assert parsed.texts["title"] == ["Audit of adversarial robustness"]
    verdicts = [text for text in parsed.texts["span"] if text in {"broken", "suspicious", "consistent"}]
    assert verdicts == ["broken", "consistent"] * 2
    (broken, consistent) = (text for text in parsed.texts["li"] if "found nothing" in text)
    assert broken.endswith("; 2 checks found nothing (in the model on 100 images, budget quick)")
    assert consistent.endswith("; 2 checks found nothing")
    cells = parsed.texts["td"]
    for text in (
        "at eps any",
        "eps any, seed 1",
        "pgd, any",
        "90.0",
        "40.0 [36.0, 44.0]",
        "not-converged",
        "budget quick",
    ):
        assert text in cells
    assert cells.count("few-images, any") == 2
    assert any("BPDA" in text for text in cells)


def test_no_groups_are_a_page_that_says_so() -> None:
    """As of a store whose only cell failed."""
    assert "Nothing was audited" in audit_page([])

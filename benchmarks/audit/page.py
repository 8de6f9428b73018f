"""Makes the page of an audit, by the templates and tables of the page of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from robustbench_cli.benchmarks.audit.verdict import AuditedRows
from robustbench_cli.benchmarks.evaluation.checks.base.finding import VERDICTS
from robustbench_cli.benchmarks.reports.curves import Estimate
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.html.tables import Field, Table, accuracy, findings_table, number, percent
from robustbench_cli.benchmarks.reports.html.template import rendered

__all__ = ["audit_page"]

_MOST = 2000
"""The largest number of characters of a list of names, and of a reason."""


def audit_page(groups: Sequence[AuditedRows]) -> str:
    """The page of an audit, one HTML document that loads nothing from elsewhere.

    Args:
        groups: What was audited. The page has the severest verdicts first.
    """
    ordered = sorted(groups, key=lambda group: VERDICTS.index(group.verdict), reverse=True)
    counts = Counter(group.verdict for group in ordered)
    return rendered(
        "audit.html.jinja",
        groups=ordered,
        counts=list(counts.items()),
        findings=findings_table((), ordered),
        accuracies=_accuracies(ordered),
        checked=_checked(ordered),
        models=_models(ordered),
    )


def _accuracies(groups: Sequence[AuditedRows]) -> Table:
    """A row for each threat."""
    rows = [
        [
            Field(shortened(group.title, most=200)),
            Field(shortened(threat.text)),
            Field(shortened(", ".join(threat.attacks), most=_MOST)),
            percent(threat.clean_accuracy),
            accuracy(Estimate(threat.robust_accuracy, threat.robust_accuracy_low, threat.robust_accuracy_high)),
        ]
        for group in groups
        for threat in group.threats
    ]
    headers = [("rows", False), ("threat", False), ("attacks", False), ("clean %", True), ("robust %", True)]
    return Table(
        caption="The worst case of each threat; the robust accuracy has its 95 % interval", headers=headers, rows=rows
    )


def _checked(groups: Sequence[AuditedRows]) -> Table:
    """For each group the checks that found nothing, and those that were left out for each reason."""
    texts: list[tuple[str, ...]] = []
    for group in groups:
        if group.passed:
            texts.append((group.title, "found nothing", ", ".join(group.passed), ""))
        texts += [(group.title, "left out", ", ".join(names), reason) for reason, names in group.left_out_for.items()]
    rows = [[Field(shortened(text, most=_MOST)) for text in row] for row in texts]
    headers = [(name, False) for name in ("rows", "outcome", "checks", "reason")]
    return Table(caption="The checks without a finding", headers=headers, rows=rows)


def _models(groups: Sequence[AuditedRows]) -> Table:
    """The file of each model, and how it was audited."""
    rows = [
        [
            Field(shortened(group.title, most=200)),
            Field(shortened(group.checkpoint, most=200)),
            Field(group.checkpoint_sha256[:12], kind="code"),
            Field("the model was not run" if group.budget is None else f"budget {group.budget}"),
            number(group.audited_n),
        ]
        for group in groups
    ]
    headers = [
        *(("rows", False), ("checkpoint", False), ("weights sha256", False)),
        *(("checks in the model", False), ("images", True)),
    ]
    return Table(caption="What was audited", headers=headers, rows=rows)

"""The formats of an audit: plain text, JSON, Markdown, those of pipelines, and a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from robustbench_cli.benchmarks.audit.verdict import AuditedRows
from robustbench_cli.benchmarks.reports import pipeline_formats
from robustbench_cli.benchmarks.reports.cases import Case, Outcome
from robustbench_cli.core.escaping import escaped_for_markdown, escaped_for_terminal

__all__ = ["FORMATS"]


def _text(groups: Sequence[AuditedRows]) -> str:
    """An audit for a terminal: for each group its verdict, its figures, the evidence and what was left out.

    Args:
        groups: The groups of rows.
    """
    return "\n".join("\n".join(map(escaped_for_terminal, _lines(group))) + "\n" for group in groups)


def _lines(group: AuditedRows) -> list[str]:
    lines = [f"{group.title}: {group.headline}"]
    lines += [f"  {figures}" for figures in _figures(group)]
    lines += [f"  {finding.severity}: {finding.check}: {finding.evidence}" for finding in group.findings]
    if group.passed:
        lines.append(f"  {group.passed_text}")
    return lines + [f"  left out: {line}" for line in _left_out(group)]


def _figures(group: AuditedRows) -> list[str]:
    """A line for each threat."""
    return [
        f"{threat.text}: clean {100 * threat.clean_accuracy:.1f}, robust {100 * threat.robust_accuracy:.1f} "
        f"[{100 * threat.robust_accuracy_low:.1f}, {100 * threat.robust_accuracy_high:.1f}] "
        f"under {', '.join(threat.attacks)}"
        for threat in group.threats
    ]


def _left_out(group: AuditedRows) -> list[str]:
    """A line for each reason, with the checks that did not run for it."""
    return [f"{', '.join(names)} ({reason})" for reason, names in group.left_out_for.items()]


def _json(groups: Sequence[AuditedRows]) -> str:
    return json.dumps([group.model_dump(mode="json") for group in groups], indent=1) + "\n"


def _markdown(groups: Sequence[AuditedRows]) -> str:
    lines = ["| rows | verdict | check | evidence |", "| :-- | :-- | :-- | :-- |"]
    for group in groups:
        first = (group.title, group.headline)
        evidence = [("", "; ".join(_figures(group)))] if group.threats or not group.findings else []
        evidence += [(finding.check, finding.evidence) for finding in group.findings]
        for number, row in enumerate(evidence):
            cells = (*(first if number == 0 else ("", "")), *row)
            lines.append(f"| {' | '.join(map(escaped_for_markdown, cells))} |")
    for group in groups:
        lines += [f"\n{escaped_for_markdown(f'{group.title}: left out: {line}')}" for line in _left_out(group)]
    return "\n".join(lines) + "\n"


def _cases(groups: Sequence[AuditedRows]) -> list[Case]:
    """A test case for each check of each group: it passes, fails with a finding, or is skipped."""

    def case(group: AuditedRows, check: str, outcome: Outcome, message: str = "", *, broken: bool = False) -> Case:
        return Case(
            group=group.title,
            rule=check,
            name=check,
            outcome=outcome,
            message=message,
            severity="error" if broken else "warning",
            checkpoint=group.checkpoint,
            identity=check,
        )

    cases = []
    for group in groups:
        for finding in group.findings:
            message = f"{finding.severity}: {finding.evidence}"
            cases.append(case(group, finding.check, "failed", message, broken=finding.severity == "broken"))
        cases += [case(group, name, "passed") for name in group.passed]
        cases += [case(group, entry.check, "skipped", entry.reason) for entry in group.left_out]
    return cases


def _junit(groups: Sequence[AuditedRows]) -> str:
    return pipeline_formats.junit(_cases(groups), name="advdef audit")


def _with_groups(groups: Sequence[AuditedRows]) -> list[Case]:
    """The cases for formats without groups: the name of each has the group's title."""
    return [replace(case, name=f"{case.group}: {case.name}") for case in _cases(groups)]


def _github(groups: Sequence[AuditedRows]) -> str:
    """Annotations of the findings. GitHub shows ten of each kind, so checks that were left out get none."""
    return pipeline_formats.github([case for case in _with_groups(groups) if case.outcome != "skipped"])


def _sarif(groups: Sequence[AuditedRows]) -> str:
    return pipeline_formats.sarif(_with_groups(groups))


def _html(groups: Sequence[AuditedRows]) -> str:
    from robustbench_cli.benchmarks.audit.page import audit_page

    return audit_page(groups)


FORMATS: Mapping[str, Callable[[Sequence[AuditedRows]], str]] = {
    "table": _text,
    "json": _json,
    "markdown": _markdown,
    "junit": _junit,
    "github": _github,
    "sarif": _sarif,
    "html": _html,
}
"""The formats by name, the default first."""

"""The formats of an audit: plain text, JSON, Markdown and JUnit XML."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence

from robustbench_cli.benchmarks.audit.verdict import AuditedRows
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
        budget = "" if group.budget is None else f" (in the model on {group.audited_n} images, budget {group.budget})"
        lines.append(f"  {len(group.passed)} checks found nothing{budget}")
    return lines + [f"  left out: {line}" for line in _left_out(group)]


def _figures(group: AuditedRows) -> list[str]:
    """A line for each threat."""
    return [
        f"{f'eps {threat.eps}' if threat.eps else 'any distance'}"
        f"{'' if threat.targeted == 'no' else f', targeted {threat.targeted}'}"
        f"{f', seed {threat.seed}' if threat.seed else ''}: clean {100 * threat.clean_accuracy:.1f}, "
        f"robust {100 * threat.robust_accuracy:.1f} "
        f"[{100 * threat.robust_accuracy_low:.1f}, {100 * threat.robust_accuracy_high:.1f}] "
        f"under {', '.join(threat.attacks)}"
        for threat in group.threats
    ]


def _left_out(group: AuditedRows) -> list[str]:
    """A line for each reason, with the checks that did not run for it."""
    checks: dict[str, list[str]] = {}
    for entry in group.left_out:
        checks.setdefault(entry.reason, []).append(entry.check)
    return [f"{', '.join(names)} ({reason})" for reason, names in checks.items()]


def _json(groups: Sequence[AuditedRows]) -> str:
    return json.dumps([group.model_dump(mode="json") for group in groups], indent=1) + "\n"


def _markdown(groups: Sequence[AuditedRows]) -> str:
    lines = ["| rows | verdict | check | evidence |", "| :-- | :-- | :-- | :-- |"]
    for group in groups:
        first = (group.title, group.headline)
        evidence = [(finding.check, finding.evidence) for finding in group.findings] or [
            ("", "; ".join(_figures(group)))
        ]
        for number, row in enumerate(evidence):
            cells = (*(first if number == 0 else ("", "")), *row)
            lines.append(f"| {' | '.join(map(escaped_for_markdown, cells))} |")
    for group in groups:
        lines += [f"\n{escaped_for_markdown(f'{group.title}: left out: {line}')}" for line in _left_out(group)]
    return "\n".join(lines) + "\n"


def _junit(groups: Sequence[AuditedRows]) -> str:
    """A test suite for each group with a case for each check: it passes, fails with a finding, or is skipped."""
    root = ET.Element("testsuites", name="advdef audit")
    for group in groups:
        title = escaped_for_terminal(group.title)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=title,
            tests=str(len(group.passed) + len(group.findings) + len(group.left_out)),
            failures=str(len(group.findings)),
            errors="0",
            skipped=str(len(group.left_out)),
            time="0",
        )
        for finding in group.findings:
            case = ET.SubElement(suite, "testcase", classname=title, name=escaped_for_terminal(finding.check), time="0")
            evidence = escaped_for_terminal(finding.evidence)
            ET.SubElement(case, "failure", message=evidence, type=finding.severity).text = evidence
        for name in group.passed:
            ET.SubElement(suite, "testcase", classname=title, name=escaped_for_terminal(name), time="0")
        for entry in group.left_out:
            case = ET.SubElement(suite, "testcase", classname=title, name=escaped_for_terminal(entry.check), time="0")
            ET.SubElement(case, "skipped", message=escaped_for_terminal(entry.reason))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


FORMATS: Mapping[str, Callable[[Sequence[AuditedRows]], str]] = {
    "table": _text,
    "json": _json,
    "markdown": _markdown,
    "junit": _junit,
}
"""The formats by name, the default first."""

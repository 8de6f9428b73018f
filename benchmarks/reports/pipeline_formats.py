"""Test cases in the formats of pipelines: JUnit XML, annotations of GitHub Actions, and SARIF 2.1.0."""

from __future__ import annotations

import hashlib
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import ItemsView, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from robustbench_cli import __version__
from robustbench_cli.benchmarks.evaluation.checks import registry as checks
from robustbench_cli.benchmarks.reports.cases import CELL, Case
from robustbench_cli.benchmarks.reports.gate_options import GATES
from robustbench_cli.benchmarks.reports.legend import check_page
from robustbench_cli.benchmarks.reports.markdown import GateMark
from robustbench_cli.core.escaping import escaped_for_github, escaped_for_terminal, shortened
from robustbench_cli.core.strict_yaml import Position

__all__ = ["github", "junit", "marks", "sarif"]


def junit(cases: Sequence[Case], *, name: str = "advdef") -> str:
    """JUnit XML as Jenkins and GitLab read it: a test suite per group.

    Args:
        cases: The cases.
        name: The name of all suites together.
    """
    root = ET.Element("testsuites", {"name": name, **_counts(cases)})
    for group, members in _by_group(cases):
        title = escaped_for_terminal(group)
        suite = ET.SubElement(
            root, "testsuite", {"name": title, **_counts(members), "skipped": _count(members, "skipped")}
        )
        for case in members:
            message = escaped_for_terminal(case.message)
            element = ET.SubElement(
                suite, "testcase", classname=title, name=escaped_for_terminal(case.name), time=f"{case.seconds:.3f}"
            )
            if case.outcome == "passed":
                if message:
                    ET.SubElement(element, "system-out").text = message
            elif case.outcome == "skipped":
                ET.SubElement(element, "skipped", message=message)
            else:
                tag = "failure" if case.outcome == "failed" else "error"
                ET.SubElement(element, tag, message=message, type=escaped_for_terminal(case.rule)).text = message
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": _count(cases, "failed"),
        "errors": _count(cases, "error"),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def _count(cases: Sequence[Case], outcome: str) -> str:
    return str(sum(case.outcome == outcome for case in cases))


def github(cases: Sequence[Case]) -> str:
    """Annotations of GitHub Actions: an error for what fails the pipeline, a warning for missing cells and flagged rows.

    Args:
        cases: The cases.
    """
    lines = []
    for case in cases:
        if case.outcome != "passed":
            level = "warning" if case.outcome == "skipped" else case.severity
            lines.append(_annotation(level, case, f"{case.name}: {case.message}"))
        elif case.flags:
            lines.append(_annotation("warning", case, f"{case.name}: flags {', '.join(case.flags)}"))
    return "".join(f"{line}\n" for line in [*lines, f"::notice title=advdef::{_counted(cases)}"])


def _annotation(level: str, case: Case, message: str) -> str:
    place = "" if case.position is None else f"file={_property(_relative(case.position))},line={case.position.line},"
    return f"::{level} {place}title={_property(f'advdef {case.rule}')}::{escaped_for_github(message)}"


def _property(text: str) -> str:
    return escaped_for_github(text, in_property=True)


def _relative(position: Position) -> str:
    """The path of a file, relative to the current folder where it lies in it."""
    path, folder = Path(position.path).absolute(), Path.cwd()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _counted(cases: Sequence[Case]) -> str:
    """The outcomes of gates and cells in one line."""
    parts = []
    for group, members in _by_group(cases):
        counts = Counter(case.outcome for case in members)
        parts.append(f"{group}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(counts.items()))}")
    return "; ".join(map(escaped_for_github, parts)) or "no gates and no cells"


def _by_group(cases: Sequence[Case]) -> ItemsView[str, list[Case]]:
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    return groups.items()


_MOST_MARKS = 100
"""The largest number of cases in Markdown: GitHub refuses a comment of more than 65,536 characters."""

_LONGEST_MARK = 400
"""The largest number of characters of a case in Markdown."""


def marks(cases: Sequence[Case]) -> list[GateMark]:
    """The cases that did not pass, and how many did, for Markdown.

    Args:
        cases: The cases.
    """
    bad = [case for case in cases if case.outcome != "passed"]
    outcomes = {"failed": False, "error": None, "skipped": None}
    lines: list[GateMark] = [
        (outcomes[case.outcome], shortened(f"{case.name}: {case.message}", most=_LONGEST_MARK))
        for case in bad[:_MOST_MARKS]
    ]
    lines += [(None, f"and {len(bad) - _MOST_MARKS} more")] if bad[_MOST_MARKS:] else []
    gates = [case for case in cases if case.group == "gates"]
    passed = sum(case.outcome == "passed" for case in gates)
    return [*lines, (True, f"{passed} of {len(gates)} tests of gates passed")] if passed else lines


_FINGERPRINT = "advdef/v1"

_NO_FILE = Position("pyproject.toml", 1)
"""The place of a result without a suite and a model, such as a gate that found no row: where a project sets its options."""


def sarif(cases: Sequence[Case]) -> str:
    """SARIF 2.1.0: a rule for each gate and check, a result for what is not as it should be.

    Each result has the place of a file, since GitHub refuses all results where one has none: the line of the suite, or else
    the file of the model.

    Args:
        cases: The cases.
    """
    rules = _rules()
    known = {rule["id"]: index for index, rule in enumerate(rules)}
    results = []
    for case in cases:
        if case.outcome != "passed":
            level = "note" if case.outcome == "skipped" else case.severity
            results.append(_result(case, case.rule, level, f"{case.name}: {case.message}", known))
        results += [_result(case, flag, "warning", f"{case.name}: {_text_of(flag)}", known) for flag in case.flags]
    run = {
        "tool": {"driver": {"name": "advdef", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rules() -> list[dict[str, Any]]:
    """A rule for each gate, for cells and for each installed check."""
    gates = [(gate.name, gate.help) for gate in GATES]
    cells = [(CELL, "A cell failed, or it is missing.")]
    return [
        {"id": name, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}}
        for level, rules in (
            ("error", [*gates, *cells]),
            ("warning", [(name, _text_of(name)) for name in checks.names()]),
        )
        for name, text in rules
    ]


def _text_of(flag: str) -> str:
    """The meaning of a flag; its name where the check is not installed or is not one of the project."""
    return escaped_for_terminal(check_page(flag)[0] or flag)


def _result(case: Case, rule: str, level: str, message: str, known: dict[str, int]) -> dict[str, Any]:
    identity = hashlib.sha256(f"{rule}\x1f{case.group}\x1f{case.identity}".encode(errors="replace")).hexdigest()
    position = case.position or (Position(case.checkpoint, 1) if case.checkpoint else _NO_FILE)
    path = _relative(position)
    location = {
        "logicalLocations": [{"name": escaped_for_terminal(case.name), "kind": "resource"}],
        "physicalLocation": {
            "artifactLocation": {"uri": Path(path).as_uri() if Path(path).is_absolute() else quote(os.fsencode(path))},
            "region": {"startLine": position.line},
        },
    }
    result = {
        "ruleId": escaped_for_terminal(rule),
        "level": level,
        "message": {"text": escaped_for_terminal(message)},
        "locations": [location],
        "partialFingerprints": {_FINGERPRINT: identity},
    }
    return result | ({"ruleIndex": known[rule]} if rule in known else {})

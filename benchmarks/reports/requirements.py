"""The gates of a command line or of a suite file, read and judged: limits of columns, flags of rows, verdicts of audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.evaluation.checks import registry as checks
from robustbench_cli.benchmarks.evaluation.checks.base.finding import SEVERITIES, VERDICTS
from robustbench_cli.benchmarks.reports.columns import column, flag_names, gated_columns
from robustbench_cli.benchmarks.reports.corruption_means import is_mean
from robustbench_cli.benchmarks.reports.gate_options import ANY_FLAG, GATES, Gate, gate_with
from robustbench_cli.benchmarks.reports.gates import (
    GateResult,
    Limit,
    compare,
    compare_with_baseline,
    parse_conditions,
    parse_limit,
    read_baseline,
    select,
)
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey, verdict_key
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.strict_yaml import Position

__all__ = [
    "SUITE_KEYS",
    "Requirement",
    "judge",
    "limit_in_its_direction",
    "parse_entry",
    "parse_requirement",
]

SUITE_KEYS = (*(gate.name for gate in GATES), "where", "baseline")
"""The keys of an entry of a suite's ``gates``."""


@dataclass(frozen=True)
class Requirement:
    """A gate with its value.

    Attributes:
        gate: The gate.
        text: Its value, as the user wrote it.
        limit: The limit; ``None`` for gates on flags and verdicts.
        where: The values allowed for each column in the rows that it judges; empty for all rows.
        baseline: The earlier rows that it compares with.
        position: Its file and line; ``None`` for an option.
    """

    gate: Gate
    text: str
    limit: Limit | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    baseline: pd.DataFrame | None = field(default=None, compare=False)
    position: Position | None = None

    @property
    def label(self) -> str:
        """The gate in the words of the command line."""
        rows = "".join(f" --where {name}={value}" for name, values in self.where.items() for value in values)
        return f"{self.gate.option} {self.text}{rows}"


def parse_requirement(gate: Gate, text: str, *, location: str = "", **attributes: Any) -> Requirement:
    """Reads the value of a gate.

    Args:
        gate: The gate.
        text: The value.
        location: The file and line of a gate in a suite, for messages.
        **attributes: Further attributes of the requirement.

    Raises:
        UserError: The value is not allowed.
    """
    if gate.kind == "limit":
        return Requirement(gate, text, parse_limit(text, gate=gate, location=location), **attributes)
    known = [*checks.names(), ANY_FLAG] if gate.kind == "flag" else list(SEVERITIES)
    if text not in known:
        noun = "flag" if gate.kind == "flag" else "verdict"
        option = f"{location}: {gate.name}" if location else gate.option
        raise UserError(f"{option} '{text}': unknown {noun} '{text}': {did_you_mean(text, known)}")
    return Requirement(gate, text, **attributes)


def limit_in_its_direction(text: str, *, location: str = "", position: Position | None = None) -> Requirement:
    """Reads a limit that is a lower one if higher values of its column are better, and otherwise an upper one.

    Args:
        text: ``COLUMN=VALUE``.
        location: Its file and line, for messages.
        position: The same.

    Raises:
        UserError: In the column neither are better, or it cannot be judged, or the value is not allowed.
    """
    name = text.partition("=")[0].strip()
    better = column(name).gate if name in gated_columns() else "higher"
    if better is None:
        prefix = f"{location}: gates: " if location else ""
        raise UserError(
            f"{prefix}in {name} neither higher nor lower is better: give {{fail-under: {text}}} or {{fail-over: {text}}}"
        )
    gate = gate_with(upper=better == "lower", baseline=False)
    return parse_requirement(gate, text, location=location, position=position)


def parse_entry(entry: str | Mapping[str, Any], *, location: str, position: Position) -> Requirement:
    """Reads an entry of a suite's ``gates``.

    Args:
        entry: A limit such as ``robust_accuracy_low=0.38``, whose direction follows from the column, or a mapping with one
            gate and possibly ``where`` and ``baseline``.
        location: Its file and line, for messages.
        position: The same.

    Raises:
        UserError: A key or a value is not allowed, or the baseline cannot be read.
    """
    if isinstance(entry, str):
        return limit_in_its_direction(entry, location=location, position=position)
    values = {key.replace("_", "-"): value for key, value in entry.items()}
    for key in values:
        if key not in SUITE_KEYS:
            raise UserError(f"{location}: gates: unknown key '{key}': {did_you_mean(key, SUITE_KEYS)}")
    named = [gate for gate in GATES if gate.name in values]
    if len(named) != 1:
        raise UserError(
            f"{location}: gates: give an entry one gate, such as {{fail-under: robust_accuracy=0.4, where: attack=worst-case}}"
        )
    gate = named[0]
    baseline = None
    if gate.baseline != ("baseline" in values):
        raise UserError(f"{location}: gates: 'baseline: FILE.csv' and max-drop or max-rise need each other: give both")
    if "baseline" in values:
        # As other paths in a suite, relative to its folder.
        path = Path(position.path).parent / _text(values, "baseline", location)
        baseline = read_baseline(path, option=f"{location}: baseline")
    conditions = values.get("where", [])
    where = [conditions] if isinstance(conditions, str) else conditions
    if not isinstance(where, list) or not all(isinstance(condition, str) for condition in where):
        raise UserError(
            f"{location}: gates: where is {conditions!r:.80}: give a condition such as attack=worst-case, or a list"
        )
    return parse_requirement(
        gate,
        _text(values, gate.name, location),
        location=location,
        where=parse_conditions(where, option=f"{location}: where"),
        baseline=baseline,
        position=position,
    )


def _text(values: Mapping[str, Any], key: str, location: str) -> str:
    if not isinstance(values[key], str):
        raise UserError(f"{location}: gates: {key} is {values[key]!r:.80}: give one text")
    return str(values[key])


def judge(
    requirement: Requirement, table: pd.DataFrame, verdicts: Mapping[VerdictKey, AuditedVerdict] | None = None
) -> GateResult:
    """Judges the rows of a table by a gate.

    Args:
        requirement: The gate.
        table: The rows.
        verdicts: The verdicts of audits, for a gate on verdicts.
    """
    rows = select(table, requirement.where)
    if requirement.limit is None:
        result = _judge_findings(requirement, rows, verdicts or {})
    elif requirement.baseline is None:
        result = compare(rows, requirement.limit)
    else:
        result = compare_with_baseline(rows, select(requirement.baseline, requirement.where), requirement.limit)
    if not result.judgments:
        result.add(None, "missing", f"{requirement.label}: {_nothing_judged(requirement)}")
    return result


def _nothing_judged(requirement: Requirement) -> str:
    """Why a gate judges none of the rows that there are, and what would be right."""
    if requirement.limit is None:
        return (
            "the audit judges rows of each corruption and severity, and there are only their means: choose other rows"
        )
    if requirement.baseline is None:
        return f"no row needs a {requirement.limit.column}: choose rows of defended models"
    return f"neither the baseline nor the table has a {requirement.limit.column} to compare: give another column or other rows"


def _judge_findings(
    requirement: Requirement, rows: pd.DataFrame, verdicts: Mapping[VerdictKey, AuditedVerdict]
) -> GateResult:
    """Judges rows by their flags or by the verdicts on them."""
    result = GateResult()
    if rows.empty:
        result.add(None, "missing", f"{requirement.label}: there is no row to judge")
    for _, row in rows.iterrows():
        if requirement.gate.kind == "flag":
            _judge_flags(row, requirement.text, result)
        else:
            _judge_verdict(row, requirement.text, verdicts, result)
    return result


def _judge_flags(row: pd.Series, flag: str, result: GateResult) -> None:
    raised = [name for name in flag_names(row["flags"]) if flag in {ANY_FLAG, name}]
    if raised:
        result.add(row, "failed", f"it has the flag {', '.join(raised)}: see 'advdef show check {raised[0]}'")
    else:
        result.add(row, "passed", "it has no flag" if flag == ANY_FLAG else f"it has no flag {flag}")


def _judge_verdict(
    row: pd.Series, worst: str, verdicts: Mapping[VerdictKey, AuditedVerdict], result: GateResult
) -> None:
    if is_mean(row.get("corruption")):
        # Its rows at each severity are judged.
        return
    key = verdict_key(row)
    if key not in verdicts:
        result.add(row, "missing", "there is no audit of it: run 'advdef audit' with the same store")
        return
    name, evidence = verdicts[key]
    failed = VERDICTS.index(name) >= VERDICTS.index(worst)
    result.add(row, "failed" if failed else "passed", f"the audit says {name}{f': {evidence}' if evidence else ''}")

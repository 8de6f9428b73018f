"""A report as test cases: one for each gate on each row, one for each cell. Formats for pipelines are made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.benchmarks.reports.columns import flag_names
from robustbench_cli.core.strict_yaml import Position

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.gates import GateResult
    from robustbench_cli.benchmarks.reports.requirements import Requirement

__all__ = ["CELL", "Case", "Outcome", "SuitePositions", "gate_cases", "measured", "row_cases"]

Outcome = Literal["passed", "failed", "error", "skipped"]
"""``"failed"``: a gate is broken. ``"error"``: a gate cannot be judged, or a cell failed. ``"skipped"``: a cell is missing."""

CELL = "cell"
"""The rule of the cases of cells."""


@dataclass(frozen=True)
class SuitePositions:
    """Where a suite file names its attacks.

    Attributes:
        first: The first line of the file.
        attacks: The place of each attack that it names.
    """

    first: Position
    attacks: Mapping[str, Position]

    def of_attack(self, label: str) -> Position:
        """The place of an attack, or the file where it has none, as a worst case.

        Args:
            label: The attack's label, such as ``pgd(steps=100)``.
        """
        return self.attacks.get(label.removeprefix("+").partition("(")[0], self.first)


@dataclass(frozen=True)
class Case:
    """A test case.

    Attributes:
        group: The cases that belong together: ``"gates"``, ``"cells"`` or the title of audited rows.
        rule: What is tested: the name of a gate or of a check, or :data:`CELL`.
        name: The test in words, unique in its group.
        outcome: See :data:`Outcome`.
        message: The values, or what is wrong.
        flags: The flags of a row.
        severity: ``"warning"`` for what does not fail a pipeline.
        position: The line of a suite file that the case comes from.
        checkpoint: The file of the model; empty where there is none.
        identity: What stays the same in the next run.
        seconds: How long its cell took.
    """

    group: str
    rule: str
    name: str
    outcome: Outcome
    message: str = ""
    flags: Sequence[str] = ()
    severity: Literal["error", "warning"] = "error"
    position: Position | None = None
    checkpoint: str = ""
    identity: str = ""
    seconds: float = 0.0


def gate_cases(
    requirement: Requirement,
    result: GateResult,
    *,
    informational: bool = False,
    positions: SuitePositions | None = None,
) -> list[Case]:
    """The cases of a gate, one per row.

    Args:
        requirement: The gate.
        result: What it says of the rows.
        informational: Whether a broken gate does not fail the command.
        positions: The places of a suite, for a gate that is an option.
    """
    outcomes: dict[str, Outcome] = {"passed": "passed", "failed": "failed", "missing": "error"}
    return [
        Case(
            group="gates",
            rule=requirement.gate.name,
            name=f"{requirement.label}: {judgment.row}" if judgment.row else requirement.label,
            outcome=outcomes[judgment.outcome],
            message=judgment.reason,
            severity="warning" if informational and judgment.outcome == "failed" else "error",
            position=requirement.position or (None if positions is None else positions.first),
            checkpoint=judgment.checkpoint,
            identity=f"{requirement.label}\x1f{judgment.identity}",
        )
        for judgment in result.judgments
    ]


def row_cases(
    table: pd.DataFrame,
    outcome: Outcome = "passed",
    *,
    reasons: Sequence[str] = (),
    positions: SuitePositions | None = None,
) -> list[Case]:
    """The cases of cells, one per row of a table.

    Args:
        table: The rows: results, or cells that failed or are missing.
        outcome: What became of them.
        reasons: The message of each row; by default the accuracies and flags.
        positions: The places of the suite.
    """
    from robustbench_cli.benchmarks.reports.gates import checkpoint_of, row_identity, row_name
    from robustbench_cli.benchmarks.reports.readable import records

    return [
        Case(
            group="cells",
            rule=CELL,
            name=f"{row_name(row)} cell {row['cell']}",
            outcome=outcome,
            message=reasons[number] if reasons else measured(row),
            flags=flag_names(row["flags"]) if outcome == "passed" else (),
            position=None if positions is None else positions.of_attack(str(row["attack"])),
            checkpoint=checkpoint_of(row),
            identity=row_identity(row),
            # A cell that failed or is missing has no time.
            seconds=row["seconds"] or 0.0,
        )
        for number, row in enumerate(records(table))
    ]


def measured(row: Mapping[str, Any]) -> str:
    """The accuracies of a row with their intervals, and its flags.

    Args:
        row: A row of the table, with ``None`` for missing values.
    """
    parts = [
        f"{name} {row[name]:.6g} [{row[f'{name}_low']:.6g}, {row[f'{name}_high']:.6g}]"
        for name in ("clean_accuracy", "robust_accuracy")
        # Published corrupted images have no clean accuracy.
        if row[name] is not None
    ]
    return ", ".join([*parts, *([f"flags {row['flags']}"] if flag_names(row["flags"]) else [])])

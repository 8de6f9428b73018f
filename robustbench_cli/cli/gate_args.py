"""The options that judge a table by gates, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.benchmarks.reports.gate_options import GATES
from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
from robustbench_cli.cli.option_sets import Decorator, OptionSet
from robustbench_cli.cli.options import option
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.reports.cases import Case, SuitePositions
    from robustbench_cli.benchmarks.reports.gates import GateResult
    from robustbench_cli.benchmarks.reports.requirements import Requirement
    from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey
    from robustbench_cli.benchmarks.suites.config import SuiteConfig

__all__ = ["GateArgs", "Judged", "Unfinished", "gate_options", "informational_option", "obey", "suite_requirements"]


@dataclass(frozen=True)
class Unfinished:
    """The cells of a report without a result.

    Attributes:
        lines: A line for each, and for each damaged file.
        failed: The rows of cells that failed.
        missing: The rows of cells that are missing.
        errors: The error of each failed cell.
        damaged: The line of each damaged file.
        missing_reason: What is said of each missing cell.
    """

    lines: Sequence[str] = ()
    failed: pd.DataFrame | None = None
    missing: pd.DataFrame | None = None
    errors: Sequence[str] = ()
    damaged: Sequence[str] = ()
    missing_reason: str = ""

    def cases(self, positions: SuitePositions | None) -> list[Case]:
        """The cells and files as test cases.

        Args:
            positions: The places of the suite.
        """
        from robustbench_cli.benchmarks.reports.cases import CELL, Case, row_cases

        position = None if positions is None else positions.first
        cases = [Case("cells", CELL, line, "error", line, position=position, identity=line) for line in self.damaged]
        if self.failed is not None:
            cases += row_cases(self.failed, "error", reasons=self.errors, positions=positions)
        if self.missing is not None:
            reasons = [self.missing_reason] * len(self.missing)
            cases += row_cases(self.missing, "skipped", reasons=reasons, positions=positions)
        return cases


@dataclass(frozen=True)
class Judged:
    """A table with what the gates say of it.

    Attributes:
        table: The rows.
        gates: The gates.
        results: What each gate says.
        unfinished: The cells without a result.
        unmatched: A line for each row that the baseline does not have.
    """

    table: pd.DataFrame
    gates: GateArgs
    results: Sequence[GateResult] = ()
    unfinished: Unfinished = field(default_factory=Unfinished)
    unmatched: Sequence[str] = ()

    def cases(self) -> list[Case]:
        """The test cases: the gates on each row, then all cells."""
        from robustbench_cli.benchmarks.reports.cases import gate_cases, row_cases

        positions = self.gates.positions
        cases = [
            case
            for requirement, result in zip(self.gates.requirements, self.results, strict=True)
            for case in gate_cases(requirement, result, informational=self.gates.informational, positions=positions)
        ]
        return [*cases, *self.unfinished.cases(positions), *row_cases(self.table, positions=positions)]

    def finish(self) -> None:
        """Notes that the rows passed, or ends the command.

        Raises:
            CellsFailed: A row is missing or cannot be judged.
            GateFailed: A row breaks a limit, and the gates are not informational.
        """
        for line in () if self.gates.strict else self.unmatched:
            console.warn(line)
        missing = [*self.unfinished.lines, *(self.unmatched if self.gates.strict else ())]
        missing += [line for result in self.results for line in result.missing]
        broken = [line for result in self.results for line in result.broken]
        left_out = {index for result in self.results for index in result.left_out}
        if left_out:
            rows = "1 row" if len(left_out) == 1 else f"{len(left_out)} rows"
            console.note(
                f"{rows} at any distance left out of gates: without a radius, an accuracy under attack says nothing"
            )
        has_failed = self.unfinished.failed is not None and not self.unfinished.failed.empty
        obey(missing, broken, informational=self.gates.informational, resumable=has_failed)
        passed = [
            requirement.label
            for requirement, result in zip(self.gates.requirements, self.results, strict=True)
            if not result.broken
        ]
        if passed:
            console.note(f"passed: {', '.join(passed)}")


@dataclass(frozen=True)
class GateArgs:
    """The gates of a command.

    Attributes:
        requirements: The gates with their values.
        baseline: The earlier rows that some gates compare with; ``None`` where the user named none.
        strict: Whether each row must be among them.
        informational: Whether a broken gate does not change the exit code.
        positions: The places of the suite file that the rows come from.
    """

    requirements: Sequence[Requirement] = ()
    baseline: pd.DataFrame | None = field(default=None, compare=False)
    strict: bool = False
    informational: bool = False
    positions: SuitePositions | None = None

    @classmethod
    def from_options(
        cls, *, baseline: Path | None, strict: bool, informational: bool = False, **texts: tuple[str, ...]
    ) -> GateArgs:
        """Reads the gates and the baseline.

        Args:
            baseline: A .csv file.
            strict: See :class:`GateArgs`.
            informational: See :class:`GateArgs`.
            **texts: The values of each gate, by its parameter.

        Raises:
            UserError: A value is wrong, the baseline cannot be read, or an option needs another one.
        """
        values = [(gate, text) for gate in GATES for text in texts.get(gate.parameter, ())]
        if not values and baseline is None and not strict:
            return cls(informational=informational)
        # Only here, because pandas takes longer to import than a command without gates takes to start.
        from robustbench_cli.benchmarks.reports import gates
        from robustbench_cli.benchmarks.reports.requirements import parse_requirement

        requirements = [parse_requirement(gate, text) for gate, text in values]
        if any(gate.baseline for gate, _ in values) != (baseline is not None):
            raise UserError("--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both")
        if strict and baseline is None:
            raise UserError("--strict is for rows that a --baseline does not have: give one, or leave it out")
        before = None if baseline is None else gates.read_baseline(baseline)
        return cls(requirements, before, strict, informational)

    def with_suite(self, config: SuiteConfig) -> GateArgs:
        """The same gates and those of a suite file, with the lines of the file.

        Args:
            config: The suite.

        Raises:
            UserError: A gate of the file is not allowed.
        """
        from robustbench_cli.benchmarks.reports.cases import SuitePositions

        places = {
            entry.name: place
            for number, entry in enumerate(config.attacks)
            if entry.name is not None and (place := config.position("attacks", number)) is not None
        }
        files = filter(None, map(config.position, config.model_fields_set))
        first = next((place._replace(line=1) for place in files), None)
        positions = None if first is None else SuitePositions(first, places)
        return replace(self, requirements=[*self.requirements, *suite_requirements(config)], positions=positions)

    def require_rows(self, jobs: Callable[[], Sequence[Job]]) -> None:
        """Refuses a condition of a suite's gate that no row can meet, before anything is computed.

        Args:
            jobs: Gives the jobs behind the rows; only called where a gate has a condition.

        Raises:
            UserError: No row of the jobs or of their worst cases can meet it.
        """
        placed = [(gate, gate.position) for gate in self.requirements if gate.where and gate.position is not None]
        if not placed:
            return
        from robustbench_cli.benchmarks.reports import gates
        from robustbench_cli.benchmarks.reports.corruption_means import is_mean
        from robustbench_cli.benchmarks.reports.rows import planned_rows
        from robustbench_cli.benchmarks.store.records import RequestedCell

        table = planned_rows([RequestedCell(cell=job.cell, eps=job.eps, checkpoint="") for job in jobs()])
        for gate, place in placed:
            known = {name: values for name, values in gate.where.items() if name in _PLANNED}
            # The means over corruptions have rows of their own.
            if any(map(is_mean, known.get("corruption", ()))):
                known = {name: values for name, values in known.items() if name not in {"corruption", "severity"}}
            for line in gates.unmet([table], known, option=f"{place.path}, line {place.line}: where"):
                raise UserError(line)

    @property
    def needs_findings(self) -> bool:
        """Whether a gate judges what checks found: flags or verdicts."""
        return any(requirement.gate.kind != "limit" for requirement in self.requirements)

    def judged(
        self,
        table: pd.DataFrame,
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        unfinished: Unfinished | None = None,
        audits: Callable[[], Mapping[VerdictKey, AuditedVerdict]] = dict,
    ) -> Judged:
        """Judges the rows of a table, unrounded.

        Args:
            table: The rows.
            allowed: The values allowed for each column of the baseline.
            unfinished: The cells that should be there and are not.
            audits: Reads the verdicts of audits, for gates on verdicts.
        """
        unfinished = unfinished or Unfinished()
        if not self.requirements:
            return Judged(table, self, unfinished=unfinished)
        from robustbench_cli.benchmarks.reports import gates
        from robustbench_cli.benchmarks.reports.requirements import judge

        before = None if self.baseline is None else gates.select(self.baseline, allowed or {})
        needs_audits = any(requirement.gate.kind == "verdict" for requirement in self.requirements)
        verdicts = audits() if needs_audits else {}
        results = [
            judge(
                replace(requirement, baseline=before)
                if requirement.gate.baseline and requirement.baseline is None
                else requirement,
                table,
                verdicts,
            )
            for requirement in self.requirements
        ]
        unmatched = [] if before is None else gates.without_baseline(table, before)
        return Judged(table, self, results, unfinished, unmatched)


_PLANNED = {"dataset", "model", "defense", "corruption", "severity", "attack", "norm", "eps", "seed"}
"""The columns whose values are known before anything is computed."""


def obey(missing: Sequence[str], broken: Sequence[str], *, informational: bool, resumable: bool = False) -> None:
    """Ends a command whose gates are broken or cannot be judged.

    Args:
        missing: A line for each row that is missing or cannot be judged.
        broken: A line for each broken gate.
        informational: Whether a broken gate is only a warning.
        resumable: Whether the same command computes what is missing.

    Raises:
        CellsFailed: A row is missing or cannot be judged.
        GateFailed: A gate is broken, and this is not only a warning.
    """
    if missing:
        raise CellsFailed([*missing, *broken], resumable=resumable)
    if broken and not informational:
        raise GateFailed(broken)
    for line in broken:
        console.warn(f"{line} (--informational: the exit code is 0)")


def suite_requirements(config: SuiteConfig) -> list[Requirement]:
    """The gates of a suite file.

    Args:
        config: The suite.

    Raises:
        UserError: A gate is not allowed.
    """
    if not config.gates:
        return []
    from robustbench_cli.benchmarks.reports.requirements import parse_entry

    return [
        parse_entry(entry, location=config.location("gates", number), position=place)
        for number, entry in enumerate(config.gates)
        if (place := config.position("gates", number)) is not None
    ]


def _limits(*, baseline: bool) -> list[Decorator]:
    """The options of the gates with a baseline, or of those without."""
    return [
        option(gate.option, multiple=True, metavar=gate.metavar, group="Gates", help=gate.help)
        for gate in GATES
        if gate.baseline == baseline
    ]


informational_option = option(
    "--informational",
    is_flag=True,
    group="Gates",
    help="Judge and print, but exit with 0 where a gate is broken; incomplete reports still exit with 3.",
)
"""Adds ``--informational``."""

gate_options = OptionSet(
    "gates",
    GateArgs.from_options,
    (
        *_limits(baseline=False),
        option(
            "--baseline",
            type=click.Path(dir_okay=False, path_type=Path),
            group="Gates",
            help="Compare with the rows of this .csv file.",
        ),
        *_limits(baseline=True),
        option("--strict", is_flag=True, group="Gates", help="Exit with 3 if the baseline lacks a row of the table."),
        informational_option,
    ),
)
"""Adds the options of gates; they arrive as ``gates``, a :class:`GateArgs`."""

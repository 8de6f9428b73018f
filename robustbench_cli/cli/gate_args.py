"""The options that judge a table by gates, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.benchmarks.reports.gate_options import GATES, Gate
from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
from robustbench_cli.cli.option_sets import Decorator, OptionSet
from robustbench_cli.cli.options import option
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.gates import Limit

__all__ = ["GateArgs", "gate_options"]


@dataclass(frozen=True)
class GateArgs:
    """The gates of a command.

    Attributes:
        limits: Each limit with its gate and its text.
        baseline: The earlier rows that some gates compare with; ``None`` where the user named none.
        strict: Whether each row must be among them.
    """

    limits: Sequence[tuple[Gate, str, Limit]] = ()
    baseline: pd.DataFrame | None = field(default=None, compare=False)
    strict: bool = False

    @classmethod
    def from_options(cls, *, baseline: Path | None, strict: bool, **texts: tuple[str, ...]) -> GateArgs:
        """Reads the limits and the baseline.

        Args:
            baseline: A .csv file.
            strict: See :class:`GateArgs`.
            **texts: The limits of each gate, by its parameter.

        Raises:
            UserError: A limit is wrong, the baseline cannot be read, or an option needs another one.
        """
        values = [(gate, text) for gate in GATES for text in texts[gate.parameter]]
        if not values and baseline is None and not strict:
            return cls()
        # Only here, because pandas takes longer to import than a command without gates takes to start.
        from robustbench_cli.benchmarks.reports import gates

        limits = [(gate, text, gates.parse_limit(text, gate=gate)) for gate, text in values]
        if any(gate.baseline for gate, _ in values) != (baseline is not None):
            raise UserError("--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both")
        if strict and baseline is None:
            raise UserError("--strict is for rows that a --baseline does not have: give one, or leave it out")
        return cls(limits, None if baseline is None else gates.read_baseline(baseline), strict)

    def judge(
        self, table: pd.DataFrame, *, allowed: Mapping[str, Sequence[str]] | None = None, missing: Sequence[str] = ()
    ) -> None:
        """Judges the rows of a table, unrounded, and notes that they passed.

        Args:
            table: The rows.
            allowed: The values allowed for each column of the baseline.
            missing: A line for each row that should be there and is not.

        Raises:
            CellsFailed: A row is missing or cannot be judged.
            GateFailed: A row breaks a limit.
        """
        if not self.limits:
            if missing:
                raise CellsFailed(missing)
            return
        from robustbench_cli.benchmarks.reports import gates

        verdicts = [gates.compare(table, limit) for gate, _, limit in self.limits if not gate.baseline]
        missing = list(missing)
        if self.baseline is not None:
            before = gates.select(self.baseline, allowed or {})
            changes = [limit for gate, _, limit in self.limits if gate.baseline]
            verdicts += [gates.compare_with_baseline(table, before, limit) for limit in changes]
            without = gates.without_baseline(table, before)
            missing += without if self.strict else []
            for line in () if self.strict else without:
                console.warn(line)
        missing += [line for verdict in verdicts for line in verdict.missing]
        broken = [line for verdict in verdicts for line in verdict.broken]
        left_out = {index for verdict in verdicts for index in verdict.left_out}
        if left_out:
            rows = "1 row" if len(left_out) == 1 else f"{len(left_out)} rows"
            console.note(
                f"{rows} at any distance left out of gates: without a radius, an accuracy under attack says nothing"
            )
        if missing:
            raise CellsFailed([*missing, *broken])
        if broken:
            raise GateFailed(broken)
        console.note(f"passed: {', '.join(f'{gate.option} {text}' for gate, text, _ in self.limits)}")


def _limits(*, baseline: bool) -> list[Decorator]:
    """The options of the gates with a baseline, or of those without."""
    return [
        option(gate.option, multiple=True, metavar="COLUMN=VALUE", group="Gates", help=gate.help)
        for gate in GATES
        if gate.baseline == baseline
    ]


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
    ),
)
"""Adds the options of gates; they arrive as ``gates``, a :class:`GateArgs`."""

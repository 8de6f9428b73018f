"""The options of ``advdef report`` that set a limit, as one table; a new gate is one more entry."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GATES", "Gate", "gate_with"]


@dataclass(frozen=True)
class Gate:
    """An option that sets a limit.

    Attributes:
        option: The option.
        upper: Whether the limit is an upper one, for columns where lower values are better.
        baseline: Whether the limit is the largest change against a baseline.
        help: The option's help.
    """

    option: str
    upper: bool
    baseline: bool
    help: str

    @property
    def parameter(self) -> str:
        """The name of the command's parameter."""
        return self.option.removeprefix("--").replace("-", "_")


GATES = (
    Gate(
        "--fail-under",
        upper=False,
        baseline=False,
        help="Exit with 1 if a row's COLUMN is below VALUE.",
    ),
    Gate(
        "--fail-over",
        upper=True,
        baseline=False,
        help="Exit with 1 if a row's COLUMN is above VALUE, for columns where lower is better (attack_success_rate).",
    ),
    Gate(
        "--max-drop",
        upper=False,
        baseline=True,
        help="Exit with 1 if a row's COLUMN is lower than the baseline's by more than VALUE.",
    ),
    Gate(
        "--max-rise",
        upper=True,
        baseline=True,
        help="Exit with 1 if a row's COLUMN is higher than the baseline's by more than VALUE, where lower is better.",
    ),
)
"""The gates, in the order in which a report judges and lists them."""


def gate_with(*, upper: bool, baseline: bool) -> Gate:
    """The gate for a kind of limit.

    Args:
        upper: See :class:`Gate`.
        baseline: See :class:`Gate`.
    """
    return next(gate for gate in GATES if (gate.upper, gate.baseline) == (upper, baseline))

"""The gates: options of the command line and keys of a suite's ``gates``, as one table; a new gate is one more entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ANY_FLAG", "GATES", "Gate", "gate_with"]

ANY_FLAG = "any"
"""The value of ``--fail-on-flag`` that stands for all flags."""


@dataclass(frozen=True)
class Gate:
    """A gate.

    Attributes:
        option: The option.
        help: The option's help.
        kind: What it judges: a column by a limit, the flags of a row, or the verdict of an audit.
        upper: Whether a limit is an upper one, for columns where lower values are better.
        baseline: Whether a limit is the largest change against a baseline.
        metavar: The form of the value.
    """

    option: str
    help: str
    kind: Literal["limit", "flag", "verdict"] = "limit"
    upper: bool = False
    baseline: bool = False
    metavar: str = "COLUMN=VALUE"

    @property
    def name(self) -> str:
        """The key in a suite, and the rule in a report of a pipeline: ``fail-under``."""
        return self.option.removeprefix("--")

    @property
    def parameter(self) -> str:
        """The name of the command's parameter."""
        return self.name.replace("-", "_")


GATES = (
    Gate("--fail-under", help="Exit with 1 if a row's COLUMN is below VALUE."),
    Gate(
        "--fail-over",
        upper=True,
        help="Exit with 1 if a row's COLUMN is above VALUE, for columns where lower is better (attack_success_rate).",
    ),
    Gate(
        "--fail-on-flag",
        kind="flag",
        metavar=f"FLAG|{ANY_FLAG}",
        help="Exit with 1 if a row has this flag, or any flag.",
    ),
    Gate(
        "--fail-on-verdict",
        kind="verdict",
        metavar="suspicious|broken",
        help="Exit with 1 if the audit of a row's model and stored rows is broken, or at least suspicious.",
    ),
    Gate(
        "--max-drop",
        baseline=True,
        help="Exit with 1 if a row's COLUMN is lower than the baseline's by more than VALUE, or by more than a part of it (5%).",
    ),
    Gate(
        "--max-rise",
        upper=True,
        baseline=True,
        help="Exit with 1 if a row's COLUMN is higher than the baseline's by more than VALUE or 5%, where lower is better.",
    ),
)
"""The gates, in the order in which a report judges and lists them."""


def gate_with(*, upper: bool, baseline: bool) -> Gate:
    """The gate for a kind of limit.

    Args:
        upper: See :class:`Gate`.
        baseline: See :class:`Gate`.
    """
    return next(gate for gate in GATES if gate.kind == "limit" and (gate.upper, gate.baseline) == (upper, baseline))

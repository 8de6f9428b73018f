"""The flag of a row whose checks could not all run."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity

__all__ = ["CheckFailed"]


class CheckFailed(Check):
    """An error of any other check raises this flag; see :func:`~robustbench_cli.benchmarks.evaluation.checks.raised_flags`."""

    text: ClassVar[str] = "a check of this row failed with an error: run with -v to see it"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = "Another check ends with an error."
    why: ClassVar[str] = "What the check would have found is unknown."
    remedy: ClassVar[str] = (
        "Run the command with -v to see the error. A model that fails on some images or without a graph is a usual "
        "cause."
    )
    source: ClassVar[str] = "Own convention: no check may lose a result."
    position: ClassVar[int] = 10_000

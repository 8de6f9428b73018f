"""The flag of a row whose checks could not all run."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check

__all__ = ["CheckFailed"]


class CheckFailed(Check):
    """An error of any other check raises this flag; see :func:`~robustbench_cli.benchmarks.evaluation.checks.raised_flags`."""

    text: ClassVar[str] = "a check of this row failed with an error: run with -v to see it"
    position: ClassVar[int] = 10_000

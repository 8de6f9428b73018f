"""What a page shows besides the table of results: the outcomes of images, verdicts, pictures, gates and notes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Verdict
from robustbench_cli.benchmarks.reports.markdown import GateMark
from robustbench_cli.benchmarks.store.records import Result

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.rows import Together

__all__ = ["AuditedGroup", "LeftOutCheck", "PageContent"]


class LeftOutCheck(Protocol):
    """A check that did not run; see :class:`~robustbench_cli.benchmarks.audit.verdict.LeftOut`."""

    @property
    def check(self) -> str:
        """The name of the check."""

    @property
    def reason(self) -> str:
        """Why it did not run."""


class AuditedGroup(Protocol):
    """What an audit found for the rows of one model, data slice and norm; see :class:`~robustbench_cli.benchmarks.audit.verdict.AuditedRows`."""

    @property
    def title(self) -> str:
        """The model and the data, in one line."""

    @property
    def verdict(self) -> Verdict:
        """See :data:`~robustbench_cli.benchmarks.evaluation.checks.base.finding.Verdict`."""

    @property
    def headline(self) -> str:
        """The verdict, and what limits it."""

    @property
    def budget(self) -> str | None:
        """The budget of the checks in the model; ``None`` where it was not run."""

    @property
    def findings(self) -> Sequence[Finding]:
        """The findings, the severest first."""

    @property
    def passed(self) -> Collection[str]:
        """The checks that found nothing."""

    @property
    def passed_text(self) -> str:
        """How many checks found nothing, and how the model was run."""

    @property
    def left_out(self) -> Sequence[LeftOutCheck]:
        """The checks that did not run."""

    @property
    def dataset(self) -> str:
        """The data set."""

    @property
    def checkpoint_sha256(self) -> str:
        """The identity of the model."""

    @property
    def norm(self) -> str:
        """The norm."""

    @property
    def corruption(self) -> str:
        """The corruption; empty without one."""

    @property
    def n(self) -> int:
        """The number of images."""


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """All that a page shows.

    Attributes:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        results: The results behind the rows, others may be among them; empty where only the table is known.
        read: Reads the outcomes of some results on the same images.
        verdicts: What audits found; ``None`` where only the table is known.
        images: The folder of ``advdef attack --save-images``; ``None`` without one.
        missing: A line for each failed, missing or damaged cell.
        conflicts: A line for each attack that contradicts a certificate.
        gates: The outcome of each gate; empty without gates.
    """

    table: pd.DataFrame
    results: Sequence[Result] = ()
    read: Callable[[Sequence[Result]], Together | None] = lambda _: None
    verdicts: Sequence[AuditedGroup] | None = None
    images: Path | None = None
    missing: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    gates: Sequence[GateMark] = ()

"""The verdicts of audits, by what an audit judges together, and the rows of a table that belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.evaluation.checks.base.finding import VERDICTS, Verdict

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.html.content import AuditedGroup

__all__ = ["AuditedVerdict", "VerdictKey", "severest", "verdict_key"]

VerdictKey = tuple[str, str, str, str]
"""What an audit judges together: the checkpoint's hash, the data set, the corruption with its severity, and the norm."""

AuditedVerdict = tuple[Verdict, str]
"""The verdict of an audit, and its evidence in one line."""


def verdict_key(row: Mapping[str, Any] | pd.Series) -> VerdictKey:
    """The key of the verdict on a row.

    Args:
        row: The row; a column without a value is ``None`` or NaN.
    """
    corruption = row.get("corruption")
    corrupted = isinstance(corruption, str) and corruption != ""
    return (
        str(row["checkpoint_sha256"]),
        str(row["dataset"]),
        f"{corruption} {row['severity']}" if corrupted else "",
        str(row["norm"]),
    )


def severest(groups: Iterable[AuditedGroup]) -> dict[VerdictKey, AuditedVerdict]:
    """The verdicts by their keys: of several with one key the severest, of equal ones the first.

    Args:
        groups: What audits found.
    """
    verdicts: dict[VerdictKey, AuditedVerdict] = {}
    for group in groups:
        key = (group.checkpoint_sha256, group.dataset, group.corruption, group.norm)
        evidence = f"{group.findings[0].check}: {group.findings[0].evidence}" if group.findings else ""
        # An audit without findings gives way to any other.
        before = verdicts.get(key, (VERDICTS[0], ""))
        verdicts[key] = max((before, (group.verdict, evidence)), key=lambda verdict: VERDICTS.index(verdict[0]))
    return verdicts

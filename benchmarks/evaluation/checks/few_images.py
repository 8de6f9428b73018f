"""The flag of rows whose confidence interval is wider than ten points."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup

__all__ = ["FewImages"]

_WIDEST = 0.1
"""The widest interval that is not flagged: five points to each side."""


class FewImages(Check):
    """The interval is that of the worst case over the attacks of a threat, as in the table."""

    text: ClassVar[str] = (
        "too few images or draws: the confidence interval of the robust accuracy is wider than 10 points"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The 95 % confidence interval of a robust accuracy is wider than 10 points. At an accuracy of 50 %, 10 "
        "points need some 380 images."
    )
    why: ClassVar[str] = (
        "Differences between defenses are often a few points. An interval of this width contains them, so the row decides "
        "nothing."
    )
    remedy: ClassVar[str] = (
        "Give more images: --n 1000. Where the images of a pass share one draw, give more --repeats too."
    )
    source: ClassVar[str] = (
        "Wilson: Probable Inference, the Law of Succession, and Statistical Inference. Journal of the American Statistical "
        "Association 22, 1927 (the interval)"
    )
    advises: ClassVar[bool] = True

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        intervals = {threat: threat.interval for threat in rows.threats}
        threat, (low, high) = max(intervals.items(), key=lambda item: item[1][1] - item[1][0])
        if high - low <= _WIDEST:
            return None
        return self.finding(
            f"at {threat.text} the robust accuracy of {len(rows.labels)} images is between {low:.3f} and {high:.3f}",
            low=low,
            high=high,
            n=len(rows.labels),
        )

"""The flag of rows whose confidence interval is wider than ten points."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup, scored

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["FewImages"]

_WIDEST = 0.1
"""The widest interval of rows that is not flagged: five points to each side."""

_WIDEST_IN_AUDITS = 0.2
"""The same for an audit of a model. The 100 images of a quick audit suffice: 10 points to each side."""


class FewImages(Check):
    """The interval is that of the worst case over the attacks of a threat, as in the table."""

    text: ClassVar[str] = (
        "too few images or draws: the confidence interval of the robust accuracy is wider than 10 points"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The 95 % confidence interval of a robust accuracy is wider than 10 points. At an accuracy of 50 %, 10 "
        "points need some 380 images. In a model: the interval under the baseline attack is wider than 20 points."
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
        return self._of(f"at {threat.text}", low, high, len(rows.labels))

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        outcomes = probe.baseline.outcomes
        low, high = scored(outcomes).interval(0.95)
        if high - low <= _WIDEST_IN_AUDITS:
            return None
        return self._of(f"under {probe.baseline_name}", low, high, len(outcomes.labels))

    def _of(self, where: str, low: float, high: float, n: int) -> Finding:
        return self.finding(
            f"{where} the robust accuracy of {n} images is between {low:.3f} and {high:.3f}", low=low, high=high, n=n
        )

"""The flag of a robust accuracy that does not fall as the radius grows."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO, RowGroup, Threat
from robustbench_cli.benchmarks.evaluation.statistics.paired import difference_interval, holm, p_value_of_a_lead

__all__ = ["AccuracyDoesNotFall"]

_LEVEL = 0.01
"""The probability of a false alarm per group of rows, if the accuracies at two radii are equal."""

_FLAT = 0.1
"""The least fall from a radius to its double, as a share of the smaller of two: the accuracy at the radius, and the fall from the
clean accuracy to it.
"""


class AccuracyDoesNotFall(Check):
    """Two radii are compared under the attacks that ran at both."""

    text: ClassVar[str] = "the robust accuracy does not fall as the radius grows: the attack fails at large radii"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "Under the same attacks, a larger radius has a higher robust accuracy, by a paired test at level 0.01 with Holm's "
        "correction for all pairs of radii: then the rows are broken. Or from a radius to its double or more, the accuracy falls by "
        "less than a tenth of its value and less than a tenth of its fall from the clean accuracy, by the upper end of the "
        "95 % confidence interval, and stays above a tenth of the clean accuracy: then they are suspicious."
    )
    why: ClassVar[str] = (
        "A ball contains all smaller ones, so the true robust accuracy never rises with the radius. A flat one "
        "shows that the attack makes no use of the larger ball: its gradients vanish or mislead farther out, or its steps are "
        "too short."
    )
    remedy: ClassVar[str] = (
        "Use step sizes in proportion to the radius, more steps, and attacks by scores; look at the other flags for the cause."
    )
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705 (accuracy against the "
        "perturbation budget); Athalye, Carlini, Wagner, ICML 2018, section 3.1"
    )

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        pairs = [
            common
            for number, smaller in enumerate(rows.untargeted)
            for larger in rows.untargeted[number + 1 :]
            if (common := _under_common_attacks(smaller, larger)) is not None
        ]
        p_values = holm([p_value_of_a_lead(larger.scored, smaller.scored, level=_LEVEL) for smaller, larger in pairs])
        for (smaller, larger), p_value in zip(pairs, p_values, strict=True):
            if p_value < _LEVEL:
                return self._found(smaller, larger, "rises", severity="broken")
        for smaller, larger in pairs:
            if _is_flat(smaller, larger):
                return self._found(smaller, larger, "does not fall", severity="suspicious")
        return None

    def _found(self, smaller: Threat, larger: Threat, change: str, *, severity: Severity) -> Finding:
        return self.finding(
            f"under {', '.join(row.attack for row in smaller.rows)} the robust accuracy {change} from "
            f"{smaller.robust_accuracy:.3f} at {smaller.text} to {larger.robust_accuracy:.3f} at {larger.text}",
            severity=severity,
            robust_accuracy_smaller=smaller.robust_accuracy,
            robust_accuracy_larger=larger.robust_accuracy,
        )


def _under_common_attacks(smaller: Threat, larger: Threat) -> tuple[Threat, Threat] | None:
    """Two threats under the attacks that ran at both radii; ``None`` without such attacks, and for other seeds or counts."""
    if smaller.eps is None or larger.eps is None or not 0 < smaller.eps < larger.eps:
        return None
    attacks = [{row.attack for row in threat.rows if row.access != "none"} for threat in (smaller, larger)]
    common = attacks[0] & attacks[1]
    if not common or smaller.seed != larger.seed or smaller.scored.right.shape != larger.scored.right.shape:
        return None
    first, second = (threat.under(row for row in threat.rows if row.attack in common) for threat in (smaller, larger))
    return first, second


def _is_flat(smaller: Threat, larger: Threat) -> bool:
    """Whether the accuracy is flat between two radii, after it fell from the clean accuracy to the first."""
    assert smaller.eps is not None
    assert larger.eps is not None
    clean, before, after = smaller.clean_accuracy, smaller.robust_accuracy, larger.robust_accuracy
    limit = _FLAT * min(before, clean - before)
    # The interval contains the difference and takes most of the time, so it is computed only below the limit.
    if larger.eps < 2 * smaller.eps or after <= NEAR_ZERO * clean or before - after >= limit:
        return False
    return difference_interval(smaller.scored, larger.scored)[1] < limit

"""The flag of an accuracy above chance at a radius at which every image can become any other."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup, Threat

__all__ = ["AboveChance"]

_GRAY = 0.5
"""The radius in linf from which on every image can become the same gray image."""


class AboveChance(Check):
    """At such a radius the best possible attack leaves the images of one class."""

    text: ClassVar[str] = "above chance at a radius at which every image can become the same: the attack failed"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "In linf at a radius of 0.5 or more, or under a minimal-norm attack at any distance on a deterministic model, the lower "
        "end of the 95 % confidence interval of the robust accuracy is above the share of the most frequent class."
    )
    why: ClassVar[str] = (
        "In linf, a radius of 0.5 turns every image into the same gray one, which has one prediction. An attack that leaves "
        "more does not find what is there, at smaller radii neither."
    )
    remedy: ClassVar[str] = (
        "Look for the cause in the other flags; use more steps, and attacks by scores and decisions."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1 (unbounded attacks "
        "do not reach 100 % success)"
    )

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        chance = float(np.unique(rows.labels, return_counts=True)[1].max() / len(rows.labels))
        for threat in rows.untargeted:
            low, _ = threat.interval
            if _is_unbounded(threat, rows) and low > chance:
                return self.finding(
                    f"at {threat.text} the robust accuracy is {threat.robust_accuracy:.3f}, and the most frequent class has "
                    f"{chance:.3f} of the images",
                    robust_accuracy=threat.robust_accuracy,
                    chance=chance,
                )
        return None


def _is_unbounded(threat: Threat, rows: RowGroup) -> bool:
    """Whether some perturbation inside the threat model fools any model that is no better than chance on one image."""
    if all(row.access == "none" for row in threat.rows):
        return False
    if threat.eps is None:
        # Against a randomized model a perturbation that fools every draw may not exist.
        return not rows.randomized
    return rows.norm == "linf" and threat.eps >= _GRAY

"""The flag of rows whose attacks all follow gradients."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup

__all__ = ["QuickLook"]


class QuickLook(Check):
    """A standard or thorough audit of the model replaces attacks without gradients."""

    text: ClassVar[str] = "all attacks follow gradients, so the robust accuracy may be overstated where these mislead"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "At a radius, every stored attack only follows gradients, the robust accuracy is above a tenth of the clean accuracy, and "
        "no audit of the model with --budget standard or thorough is stored."
    )
    why: ClassVar[str] = (
        "A misleading gradient misleads all such attacks alike. Of the defenses that were broken later, many had been evaluated "
        "with PGD alone."
    )
    remedy: ClassVar[str] = (
        "Attack by scores and decisions too, --suite standard (for a randomized defense --suite randomized), or audit the "
        "model: advdef audit --checkpoint FILE."
    )
    source: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020"
    )
    advises: ClassVar[bool] = True

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        if rows.audited in {"standard", "thorough"}:
            return None
        unsupported = [
            threat
            for threat in rows.untargeted
            if threat.eps != 0 and not threat.is_near_zero and all(row.only_gradients for row in threat.rows)
        ]
        if not unsupported:
            return None
        threat = max(unsupported, key=lambda threat: threat.robust_accuracy)
        return self.finding(
            f"at {threat.text} the robust accuracy is {threat.robust_accuracy:.3f} under "
            f"{', '.join(row.attack for row in threat.rows)} alone",
            robust_accuracy=threat.robust_accuracy,
        )

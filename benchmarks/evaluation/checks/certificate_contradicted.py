"""The flag of rows that break images inside their certified radius."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup

__all__ = ["CertificateContradicted"]


class CertificateContradicted(Check):
    """The comparison of attacks and certificates, image by image, is that of ``advdef report``."""

    text: ClassVar[str] = "an attack broke images inside their certified radius"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "The store has a certificate of the model, and a perturbed image inside the certified radius of its image is "
        "misclassified: one image if the certificate is a proof, more images than chance allows at level 0.001 if it is by "
        "smoothing."
    )
    why: ClassVar[str] = "A certificate and an attack that contradict each other cannot both be right."
    remedy: ClassVar[str] = (
        "Find out which is wrong: a certificate of another model, norm or pixel range, or an attack that leaves the ball."
    )
    source: ClassVar[str] = (
        "Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing. ICML 2019; Gowal et al.: On the "
        "Effectiveness of Interval Bound Propagation. arXiv 1810.12715"
    )

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        if not rows.contradictions:
            return None
        others = f" (and {len(rows.contradictions) - 1} more rows)" if rows.contradictions[1:] else ""
        return self.finding(f"{rows.contradictions[0]}{others}", rows=len(rows.contradictions))

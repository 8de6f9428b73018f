"""The flag of a robust accuracy that rests on rejected images."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup

__all__ = ["SurvivesByRejection"]

_SHARE, _LEAST = 0.5, 10
"""The least share of rejections among the outcomes that count as right, and their least number."""


class SurvivesByRejection(Check):
    """A rejection of a perturbed image counts as right, so an attack that never looks at the detector breaks nothing."""

    text: ClassVar[str] = (
        "most surviving images are rejected and not classified: the attack may have ignored the detector"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "At a radius, at least half of the outcomes that count as right in the worst case over the attacks, and ten of them, are "
        "rejections of a perturbed image."
    )
    why: ClassVar[str] = (
        "An attack that only fools the classifier does not try to pass the detector. Attacks on both at once broke nearly all "
        "published detectors."
    )
    remedy: ClassVar[str] = (
        "Attack the detector too: put its score into the loss or into the logits that the model returns, and run an attack by "
        "decisions (hopskipjump), which looks for images that are not rejected."
    )
    source: ClassVar[str] = (
        "Carlini, Wagner: Adversarial Examples Are Not Easily Detected. AISec 2017, arXiv 1705.07263; Tramer, Carlini, Brendel, "
        "Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020"
    )

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        for threat in rows.untargeted:
            right = threat.worst.worst_right
            rejected = right & (threat.worst.perturbed == REJECTED).any(axis=0)
            count, left = int(rejected.sum()), int(right.sum())
            if count >= _LEAST and count >= _SHARE * left:
                return self.finding(
                    f"at {threat.text} the robust accuracy is {right.mean():.3f}, and {(right & ~rejected).mean():.3f} if "
                    "rejections count as wrong",
                    robust_accuracy=float(right.mean()),
                    robust_accuracy_classified=float((right & ~rejected).mean()),
                )
        return None

"""The flag of rows whose attacks leave more than the baseline attack of an audit of the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import (
    AuditedDraws,
    RowGroup,
    Threat,
    scored,
)
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, holm, p_value_of_a_lead

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["WeakerThanAudit"]

_LEVEL = 0.01
"""The probability of a false alarm per group of rows, if the audit's attack is as strong as those of the rows."""

_MUCH = 0.05
"""A robust accuracy that is overstated by more than this is not to be believed."""


class WeakerThanAudit(Check):
    """An audit of the model stores what its baseline attack left; later audits of rows compare without running it."""

    text: ClassVar[str] = "the baseline attack of an audit of this model is stronger than all attacks of the rows"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "At the same norm, radius and seed, the baseline attack of 'advdef audit --checkpoint' leaves fewer of the images that "
        "both attacked than the per-image worst case of the rows, by a paired test (the exact test of McNemar for deterministic "
        "models) at level 0.01 with Holm's correction. The finding is broken if the difference is larger than 5 points, and "
        "suspicious otherwise. A robust accuracy near zero is not compared."
    )
    why: ClassVar[str] = (
        "The baseline is a plain attack with full access to the model: PGD with EOT. A robust accuracy that it lowers is no "
        "bound of what an adaptive attack finds."
    )
    remedy: ClassVar[str] = "Give stronger attacks: --suite standard (for a randomized defense --suite randomized)."
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705, section 3 (report the "
        "strongest attack for each image); Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (transfer failure)"
    )

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        # The rows are not known here: outcomes_for_rows is what this check does in a model.
        return None

    def outcomes_for_rows(self, probe: ModelProbe) -> ScoredDraws | None:
        return scored(probe.baseline.outcomes)

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        compared = [
            (threat, audit, *_compared(threat, audit))
            for threat in rows.untargeted
            for audit in rows.audits
            if audit.check == self.name and _is_comparable(threat, audit)
        ]
        p_values = holm([p_value_of_a_lead(of_rows, of_audit, level=_LEVEL) for *_, of_rows, of_audit in compared])
        found = [entry for entry, p_value in zip(compared, p_values, strict=True) if p_value < _LEVEL]
        if not found:
            return None
        threat, audit, of_rows, of_audit = max(found, key=lambda entry: entry[2].accuracy - entry[3].accuracy)
        number = len(of_rows.shares)
        return self.finding(
            f"at {threat.text} {audit.attack} in the audit leaves {of_audit.accuracy:.3f} of {number} images, and the attacks of the rows "
            f"leave {of_rows.accuracy:.3f}",
            severity="broken" if of_rows.accuracy - of_audit.accuracy > _MUCH else "suspicious",
            robust_accuracy_audit=of_audit.accuracy,
            robust_accuracy=of_rows.accuracy,
            n=number,
        )


def _is_comparable(threat: Threat, audit: AuditedDraws) -> bool:
    """Whether both are of the same radius, seed and kind of counting, and the rows leave something."""
    return (
        (threat.eps, threat.seed, len(threat.scored.right)) == (audit.eps, audit.seed, len(audit.draws.right))
        and threat.rows[0].accounting == "expected"
        and not threat.is_near_zero
    )


def _compared(threat: Threat, audit: AuditedDraws) -> tuple[ScoredDraws, ScoredDraws]:
    """What the rows and the audit left of the images that both attacked: the first ones of the data set."""
    number = min(len(threat.right), len(audit.draws.shares))
    return scored(threat.worst, slice(number)), ScoredDraws(
        right=audit.draws.right[:, :number], shared=audit.draws.shared
    )

"""The verdict of an audit, with its evidence and with what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, computed_field

from robustbench_cli.benchmarks.evaluation.checks.base.finding import SEVERITIES, VERDICTS, Budget, Finding, Verdict
from robustbench_cli.benchmarks.reports.model_labels import distinct_labels

__all__ = ["Audited", "AuditedRows", "LeftOut", "ThreatFigures", "by_severity", "with_labels"]


class LeftOut(BaseModel):
    """A check that did not run.

    Attributes:
        check: The name of the check.
        reason: Why it did not run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    reason: str


class Audited(BaseModel):
    """What the checks found.

    Attributes:
        findings: The findings, the severest first.
        left_out: The checks that did not run.
        passed: The names of the checks that ran and found nothing.
        budget: The budget of the checks in the model; ``None`` where the model was not run.
        verdict: See :data:`~.finding.Verdict`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: tuple[Finding, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    passed: tuple[str, ...] = ()
    budget: Budget | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """The severest finding decides."""
        return max((finding.severity for finding in self.findings), key=VERDICTS.index, default="consistent")

    @property
    def headline(self) -> str:
        """The verdict, and what limits it, in one line."""
        limits = []
        if self.budget is None:
            limits.append("the model was not run")
        if self.left_out:
            limits.append(f"{len(self.left_out)} {'check' if len(self.left_out) == 1 else 'checks'} left out")
        return f"{self.verdict} ({', '.join(limits)})" if limits else self.verdict

    @property
    def left_out_for(self) -> dict[str, list[str]]:
        """The names of the checks that did not run, by the reason."""
        checks: dict[str, list[str]] = {}
        for entry in self.left_out:
            checks.setdefault(entry.reason, []).append(entry.check)
        return checks

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}: {self.headline}"]
        lines += [f"  {finding.check} ({finding.severity}): {finding.evidence}" for finding in self.findings]
        return "\n".join(lines)


class ThreatFigures(BaseModel):
    """The worst case over the attacks of one threat.

    Attributes:
        eps: The radius as the user wrote it; empty for any distance.
        targeted: The choice of target classes; ``"no"`` for untargeted attacks.
        seed: The seed.
        attacks: The labels of the attacks.
        clean_accuracy: In [0, 1].
        robust_accuracy: In [0, 1].
        robust_accuracy_low: Lower end of its 95 % confidence interval.
        robust_accuracy_high: Upper end of that interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eps: str
    targeted: str
    seed: int
    attacks: tuple[str, ...]
    clean_accuracy: float
    robust_accuracy: float
    robust_accuracy_low: float
    robust_accuracy_high: float

    @property
    def text(self) -> str:
        """The radius, and the targets and the seed where they are not the defaults."""
        radius = f"eps {self.eps}" if self.eps else "any distance"
        targeted = "" if self.targeted == "no" else f", targeted {self.targeted}"
        return f"{radius}{targeted}{f', seed {self.seed}' if self.seed else ''}"


class AuditedRows(Audited):
    """What the checks found for the rows of one model, data slice and norm.

    Attributes:
        dataset: The data set, as the user named it.
        model: The model's name.
        checkpoint: The checkpoint's path as the user wrote it.
        checkpoint_sha256: The identity of the model.
        defense: The label of the defenses.
        corruption: The corruption with its severity; empty without one.
        norm: The norm.
        n: The number of images of the rows; of the audit of the model where only the model was audited.
        audited_n: The largest number of images on which the model was audited; ``None`` if it was not.
        threats: The worst case of each threat; where only the model was audited, the baseline attack of the audit.
        label: The data set, the model and the defense, and the file where models of this name differ in it; see :func:`with_labels`.
    """

    dataset: str
    model: str
    checkpoint: str
    checkpoint_sha256: str
    defense: str
    corruption: str = ""
    norm: str
    n: int
    audited_n: int | None = None
    threats: tuple[ThreatFigures, ...] = ()
    label: str = ""

    @property
    def names(self) -> str:
        """The data set, the model and the defense."""
        return f"{self.dataset}, {self.model}, {self.defense}"

    @property
    def title(self) -> str:
        """The model and the data, in one line."""
        corruption = f", {self.corruption}" if self.corruption else ""
        return f"{self.label or self.names}{corruption}, {self.norm}, {self.n} images"

    @property
    def passed_text(self) -> str:
        """How many checks found nothing, and how the model was run."""
        checks = f"{len(self.passed)} {'check' if len(self.passed) == 1 else 'checks'} found nothing"
        return (
            checks
            if self.budget is None
            else f"{checks} (in the model on {self.audited_n} images, budget {self.budget})"
        )


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding of each check, the severest first.

    Args:
        findings: Of several findings of one check, the first of the severest stays.
    """
    by_check: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity), reverse=True):
        by_check.setdefault(finding.check, finding)
    return tuple(by_check.values())


def with_labels(groups: Sequence[AuditedRows]) -> list[AuditedRows]:
    """The same groups, labeled so that models of equal names differ.

    Args:
        groups: The groups of one audit.
    """
    columns = ("checkpoint", "checkpoint_sha256")
    labels = distinct_labels([group.names for group in groups], [vars(group) for group in groups], columns)
    return [group.model_copy(update={"label": label}) for group, label in zip(groups, labels, strict=True)]

"""The base class of a check: its page, and the moments at which it can look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
    from robustbench_cli.benchmarks.evaluation.checks.base.moments import (
        AttackedBatch,
        EvaluatedModels,
        FinishedEvaluation,
    )
    from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup
    from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """A test that can speak against a row. The name of its file is the flag.

    A subclass overrides the methods for the moments at which it looks. The first three run in every evaluation, so they
    must be cheap. The others run in ``advdef audit`` only. The attributes are literals, since they are read from the
    source file without an import.

    Attributes:
        text: What the flag means, in one line, for the legend of a table.
        severity: ``"broken"`` if a robust accuracy with this flag is not to be believed, otherwise ``"suspicious"``.
        raised_when: When the flag is raised, with the thresholds.
        why: Why it matters.
        remedy: What to do about it.
        source: The paper, with the section, or what else the check is taken from.
        position: Where the flag comes in a row; checks without a position come after the others.
        budget: The smallest budget of an audit that includes :meth:`finding_in_model`.
        needs: What :meth:`finding_in_model` uses of the probe besides the model. Without it, the check is left out. The
            cost of what several checks share counts once.
        advises: Whether a finding in stored rows says that more should be measured, and not that a figure is wrong. Tables have
            no flag for it: they show the interval and the note of a quick look.
        name: The flag.
    """

    text: ClassVar[str]
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = ""
    why: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    source: ClassVar[str] = ""
    position: ClassVar[int] = 1000
    budget: ClassVar[Budget] = "quick"
    needs: ClassVar[tuple[Need, ...]] = ("baseline",)

    advises: ClassVar[bool] = False

    name: str

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        """Whether a batch raises the flag; runs once per batch."""
        return False

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        """Whether the models raise the flag, whatever the attack found; runs once, after the attack."""
        return False

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        """Whether the flag belongs in the row; runs once, at the end.

        By default it does if a batch or the models raised it.
        """
        return self.name in evaluation.raised

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        """What the stored rows of one model show; nothing is run.

        Args:
            rows: All stored rows of one model, data slice and norm.

        Returns:
            The finding, made by :meth:`finding`; ``None`` if nothing speaks against the rows.
        """
        return None

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        """What the model itself shows; runs within the budget of an audit.

        By default, whether the evaluation of the probe's baseline attack raised the flag.

        Args:
            probe: The model and the images.

        Returns:
            The finding, made by :meth:`finding`; ``None`` if nothing speaks against the model.
        """
        return self.finding(f"under {probe.baseline_name}: {self.text}") if self.name in probe.baseline.flags else None

    def passes(self, probe: ModelProbe) -> int:
        """The cost of :meth:`finding_in_model`, announced before it runs, without what ``needs`` names.

        Args:
            probe: The model and the images. Nothing may be run.

        Returns:
            Passes of one image through the model with one draw; a forward and a backward pass count one each.
        """
        return 0

    def outcomes_for_rows(self, probe: ModelProbe) -> ScoredDraws | None:
        """What an audit of the model stores beside the finding, for :meth:`finding_in_rows` to compare rows with.

        Args:
            probe: The model and the images.
        """
        return None

    def finding(self, evidence: str, *, severity: Severity | None = None, **figures: float) -> Finding:
        """A finding of this check.

        Args:
            evidence: What was found, in one line with its figures.
            severity: By default the check's own.
            **figures: The same figures by name, finite.
        """
        return Finding(check=self.name, severity=severity or self.severity, evidence=evidence, figures=figures)

"""The flag of an attack that does nothing."""

from __future__ import annotations

from typing import ClassVar

import torch

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, FinishedEvaluation

__all__ = ["Unchanged"]


_EXPLAINED = ("not-a-number", "no-gradients")
"""Flags that say why an attack changed nothing."""


class Unchanged(Check):
    """The attack returned all images as they were, at a radius that allows changes."""

    text: ClassVar[str] = "the attack changed no image that the model classifies correctly"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "At a radius above 0, the attack returned all images that the model classifies correctly as they were."
    )
    why: ClassVar[str] = "The attack did nothing, so the robust accuracy is the clean accuracy."
    remedy: ClassVar[str] = (
        "Look at the other flags for the cause: zero gradients, a wrong pixel range, a step size of 0."
    )
    source: ClassVar[str] = "Pintor et al.: Indicators of Attack Failure. NeurIPS 2022"
    position: ClassVar[int] = 90

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return torch.equal(batch.candidates.worst, batch.images)

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        if evaluation.setup.options.eps == 0 or not evaluation.raised.isdisjoint(_EXPLAINED):
            return False
        return super().applies(evaluation) and all(self.name in batch.flags for batch in evaluation.batches)

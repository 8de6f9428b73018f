"""The flag of an attack that does nothing."""

from __future__ import annotations

from typing import ClassVar

import torch

from robustbench_cli.benchmarks.evaluation.checks.base.check import AttackedBatch, Check, FinishedEvaluation

__all__ = ["Unchanged"]


class Unchanged(Check):
    """The attack returned all images as they were, at a radius that allows changes."""

    text: ClassVar[str] = "the attack changed no image that the model classifies correctly"
    position: ClassVar[int] = 90

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return torch.equal(batch.candidates.worst, batch.images)

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        if evaluation.setup.options.eps == 0 or "not-a-number" in evaluation.raised:
            return False
        return super().applies(evaluation) and all(self.name in batch.flags for batch in evaluation.batches)

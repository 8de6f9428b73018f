"""The base class of the checks that the same images get the same predictions."""

from __future__ import annotations

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, FinishedEvaluation

__all__ = ["SamePredictions"]


class SamePredictions(Check):
    """The model must give the same predictions for the same images."""

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        # One comparison with a fresh copy, in other batches, clears a model of everything that these checks look for.
        return not batch.agrees_with_fresh_copy and self.differs(batch)

    def differs(self, batch: AttackedBatch) -> bool:
        """Whether the predictions differ for the reason that this check looks for."""
        raise NotImplementedError

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        # Draws that no seed controls explain different predictions by themselves.
        return super().applies(evaluation) and "not-repeatable" not in evaluation.raised

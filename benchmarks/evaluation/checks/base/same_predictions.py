"""The base class of the checks that the same images get the same predictions."""

from __future__ import annotations

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.moments import FinishedEvaluation

__all__ = ["SamePredictions"]


class SamePredictions(Check):
    """The model must give the same predictions for the same images.

    One comparison with a fresh copy, in other batches, clears a model of everything that these checks look for; see
    :attr:`~.moments.AttackedBatch.agrees_with_fresh_copy`.
    """

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        # Draws that no seed controls explain different predictions by themselves.
        return super().applies(evaluation) and "not-repeatable" not in evaluation.raised

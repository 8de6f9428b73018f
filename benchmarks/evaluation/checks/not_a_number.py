"""The flag of a model that gives NaN."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import AttackedBatch, Check

__all__ = ["NotANumber"]


class NotANumber(Check):
    """A prediction of NaN is no class: it counts as wrong."""

    text: ClassVar[str] = "the model gave NaN for some images; they count as misclassified"
    position: ClassVar[int] = 80

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return bool(batch.candidates.failed.any())

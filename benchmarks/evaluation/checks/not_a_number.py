"""The flag of a model that gives NaN."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["NotANumber"]


class NotANumber(Check):
    """A prediction of NaN is no class: it counts as wrong."""

    text: ClassVar[str] = "the model gave NaN for some images; they count as misclassified"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = "The model gives NaN for a perturbed image."
    why: ClassVar[str] = (
        "NaN is no class and counts as misclassified, so the robust accuracy is not too high for it. A model that "
        "fails on valid images is not usable, and gradients near such images are zero."
    )
    remedy: ClassVar[str] = (
        "Find the operation: a logarithm or square root at 0, a division by 0, or an overflow in half precision."
    )
    source: ClassVar[str] = "Own convention"
    position: ClassVar[int] = 80

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return bool(batch.candidates.failed.any())

"""The flag of a row that counts single draws."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, EvaluatedModels

__all__ = ["SingleDraw"]


class SingleDraw(Check):
    """AutoAttack's way to count is no expected accuracy."""

    text: ClassVar[str] = (
        "not the expected accuracy: an image counts as broken once one draw misclassifies it, "
        "the draw of the clean image included, as AutoAttack counts"
    )
    position: ClassVar[int] = 110

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return models.setup.single_draw

"""The flag of a row that counts single draws."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["SingleDraw"]


class SingleDraw(Check):
    """AutoAttack's way to count is no expected accuracy."""

    text: ClassVar[str] = (
        "not the expected accuracy: an image counts as broken once one draw misclassifies it, "
        "the draw of the clean image included, as AutoAttack counts"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = "The suite counts one draw per attack, as AutoAttack does."
    why: ClassVar[str] = (
        "An unlucky draw counts as a success of the attack, and so does a wrong draw of the clean image. The figure is "
        "for comparison with published ones only."
    )
    remedy: ClassVar[str] = "Use --suite randomized for the expected accuracy."
    source: ClassVar[str] = "The rand version of AutoAttack: Croce, Hein, ICML 2020"
    position: ClassVar[int] = 110

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return models.setup.single_draw

"""The flag of an attack that needs more classes than the model has."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["FewClasses"]


class FewClasses(Check):
    """An attack of several targets, or with a loss of several logits, runs in a weaker form on few classes."""

    text: ClassVar[str] = (
        "the model has few classes: the attack has fewer targets than its parameters say, "
        "or uses the margin instead of a ratio of more logits"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The model has fewer classes than the attack needs for its number of targets or for its loss."
    )
    why: ClassVar[str] = (
        "The attack runs in a weaker form than its paper describes, so the accuracy that it leaves may be too high."
    )
    remedy: ClassVar[str] = "Compare with an attack without this flag, such as pgd or cw-pgd."
    source: ClassVar[str] = "Croce, Hein, ICML 2020, section 4: the ratio of the DLR loss takes three or four classes"
    position: ClassVar[int] = 120

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return setup.classes < setup.attack.min_classes(targeted=setup.options.is_targeted)

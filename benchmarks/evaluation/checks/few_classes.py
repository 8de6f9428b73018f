"""The flag of an attack that needs more classes than the model has."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, EvaluatedModels

__all__ = ["FewClasses"]


class FewClasses(Check):
    """An attack of several targets, or with a loss of several logits, runs in a weaker form on few classes."""

    text: ClassVar[str] = (
        "the model has few classes: the attack has fewer targets than its parameters say, "
        "or uses the margin instead of a ratio of more logits"
    )
    position: ClassVar[int] = 120

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return setup.classes < setup.attack.min_classes(targeted=setup.options.is_targeted)

"""The flag of a model that enumerates other draws than it makes."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["OtherDraws"]


class OtherDraws(Check):
    """The exact expectation needs an enumeration of the very draws that a pass can make."""

    text: ClassVar[str] = (
        "the draws that the model enumerates differ from the draws that it makes: "
        "the expectation was taken over sampled draws"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The draws that the model enumerates do not have the distribution of those that its passes make."
    )
    why: ClassVar[str] = (
        "An exact expectation over the wrong draws misleads the attack. The evaluation sampled the draws instead."
    )
    remedy: ClassVar[str] = "Correct all_draws, or remove it."
    source: ClassVar[str] = "Own test: sampled draws against the enumerated ones"
    position: ClassVar[int] = 70

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return models.setup.attacked.enumeration_is_wrong

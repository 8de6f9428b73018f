"""The flag of a minimal-norm attack on a randomized model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["EveryDraw"]


class EveryDraw(Check):
    """A minimal-norm attack counts only perturbations that fool every draw, which may not exist."""

    text: ClassVar[str] = (
        "a minimal-norm attack must fool every draw and reports failure otherwise: "
        "a fixed-radius attack may be stronger here"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = "The attack searches for the smallest perturbation, and the model is randomized."
    why: ClassVar[str] = (
        "The attack counts only perturbations that fool every draw. Where there is none it reports failure, so the "
        "accuracy that it leaves is too high."
    )
    remedy: ClassVar[str] = "Attack inside a fixed radius with EOT: --suite randomized, or --attack apgd-ce --eot 10."
    source: ClassVar[str] = "Own convention of minimal-norm attacks on randomized models"
    position: ClassVar[int] = 100

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return models.setup.attack.minimal_norm and models.setup.attacked.randomized

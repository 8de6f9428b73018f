"""The flag of a minimal-norm attack on a randomized model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, EvaluatedModels

__all__ = ["EveryDraw"]


class EveryDraw(Check):
    """A minimal-norm attack counts only perturbations that fool every draw, which may not exist."""

    text: ClassVar[str] = (
        "a minimal-norm attack must fool every draw and reports failure otherwise: "
        "a fixed-radius attack may be stronger here"
    )
    position: ClassVar[int] = 100

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return models.setup.attack.minimal_norm and models.setup.attacked.randomized

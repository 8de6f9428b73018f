"""The flag of an attack that follows single draws of a randomized model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, EvaluatedModels

__all__ = ["NoEOT"]


class NoEOT(Check):
    """An attack by gradients on a randomized model needs the expectation over draws (EOT)."""

    text: ClassVar[str] = "the attack followed one draw at a time of a randomized defense: use --eot 10 or --eot exact"
    position: ClassVar[int] = 10

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return setup.follows_gradients and setup.followed.randomized and setup.draws in (1, "frozen")

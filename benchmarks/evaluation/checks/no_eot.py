"""The flag of an attack that follows single draws of a randomized model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["NoEOT"]


class NoEOT(Check):
    """An attack by gradients on a randomized model needs the expectation over draws (EOT)."""

    text: ClassVar[str] = "the attack followed one draw at a time of a randomized defense: use --eot 10 or --eot exact"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "The attack follows gradients of a randomized model with one draw per gradient, or with one frozen draw."
    )
    why: ClassVar[str] = (
        "The gradient of one draw is noise around the gradient of the expected loss. The attack fits a draw that the "
        "deployed model does not repeat."
    )
    remedy: ClassVar[str] = (
        "Attack with the expectation over draws: --eot 10 or more, or --eot exact where the draws can be enumerated."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 4.2"
    )
    position: ClassVar[int] = 10

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return setup.follows_gradients and setup.followed.randomized and setup.draws in (1, "frozen")

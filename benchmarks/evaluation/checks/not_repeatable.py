"""The flag of a model with randomness that torch's seed does not control."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import is_repeatable
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["NotRepeatable"]


class NotRepeatable(Check):
    """Two passes with the same seed must give the same logits, for the attacked model and the followed one."""

    text: ClassVar[str] = (
        "the model draws random numbers that torch's seed does not control: its figures cannot be reproduced"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = "Two passes with the same seed of torch give different logits, beyond rounding."
    why: ClassVar[str] = (
        "The draws come from another generator (NumPy, random, the clock), so they are not independent across the rows "
        "of a batch by construction, and the figures cannot be reproduced."
    )
    remedy: ClassVar[str] = "Draw with torch's generator inside forward."
    source: ClassVar[str] = "Own test"
    position: ClassVar[int] = 40

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return not (
            models.followed_is_repeatable and (setup.followed is setup.attacked or is_repeatable(setup.attacked))
        )

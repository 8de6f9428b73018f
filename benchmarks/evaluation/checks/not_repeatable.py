"""The flag of a model with randomness that torch's seed does not control."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, EvaluatedModels
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import is_repeatable

__all__ = ["NotRepeatable"]


class NotRepeatable(Check):
    """Two passes with the same seed must give the same logits, for the attacked model and the followed one."""

    text: ClassVar[str] = (
        "the model draws random numbers that torch's seed does not control: its figures cannot be reproduced"
    )
    position: ClassVar[int] = 40

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return not (
            models.followed_is_repeatable and (setup.followed is setup.attacked or is_repeatable(setup.attacked))
        )

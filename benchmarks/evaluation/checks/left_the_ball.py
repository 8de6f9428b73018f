"""The flag of an attack that leaves the threat model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["LeftTheBall"]


class LeftTheBall(Check):
    """An attack must return images inside the ball and the box; the evaluation projects them there in any case."""

    text: ClassVar[str] = "the attack returned images outside the threat model; they were projected back"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "An image that the attack returned moves by more than 1e-4 in a pixel when it is projected into the ball and "
        "the box."
    )
    why: ClassVar[str] = (
        "The attack searched outside the threat model. The projected image may be right where the returned one is "
        "wrong, so the accuracy is too high."
    )
    remedy: ClassVar[str] = (
        "Correct the projection of the attack; in another library, check that the norm and the pixel range are the "
        "same."
    )
    source: ClassVar[str] = "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    position: ClassVar[int] = 130

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return batch.left_the_ball

"""The flag of an attack that leaves the threat model."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import AttackedBatch, Check

__all__ = ["LeftTheBall"]


class LeftTheBall(Check):
    """An attack must return images inside the ball and the box; the evaluation projects them there in any case."""

    text: ClassVar[str] = "the attack returned images outside the threat model; they were projected back"
    position: ClassVar[int] = 130

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return batch.left_the_ball

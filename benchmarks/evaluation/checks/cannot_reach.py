"""The flag of an attack whose steps are too short for the radius."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, FinishedEvaluation

__all__ = ["CannotReach"]

_FEWEST = 5
"""The fewest unbroken images that count."""

_NEAR, _NEAR_IN_SUMS = 0.9, 0.5
"""The share of the radius that some image must move in linf, and all steps together in any norm; and the share that some image must
move in l2 and l1, where the box stops many pixels.
"""

_LEVEL = 1 / 255
"""An image rounded to 8 bits may lose or move as much."""


class CannotReach(Check):
    """A fixed-radius attack that does not break an image uses the ball up to its surface."""

    text: ClassVar[str] = "the attack's steps are too few or too short for the radius"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "A fixed-radius attack leaves at least 5 images of a batch, and all of its steps together are shorter than 0.9 of eps; "
        "or it moves at least 5 of those by more than one of 255 levels, and none of them further than 0.9 of eps (less one "
        "level) in linf, or half of eps in l2 and l1. An attack that left the ball, or met no or zero gradients, does not "
        "count: these are flags of their own."
    )
    why: ClassVar[str] = "The attack searched a smaller ball than the row says, so the accuracy is too high."
    remedy: ClassVar[str] = (
        "Raise the steps or the step size: the defaults of other libraries do not follow eps. Or give a smaller --eps."
    )
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705, section 5.3"
    )
    position: ClassVar[int] = 135

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        options, attack = batch.setup.options, batch.setup.attack
        norm = batch.threat.norm
        if not options.eps or attack.minimal_norm or norm == "l0":
            return False
        arrays = batch.candidates.arrays()
        # A randomized model counts as broken at half of its draws, at which an attack may stop.
        unbroken = arrays["survival"].min(axis=0) >= 0.5
        # A random start is near the surface at once, so the distance does not show how far the steps go. The box does not shorten them.
        reach = attack.reach()
        if reach is not None and reach < _NEAR * options.eps:
            return int(unbroken.sum()) >= _FEWEST
        moved = arrays["distance"][unbroken & (arrays["linf"] > _LEVEL)]
        least = _NEAR * options.eps - _LEVEL if norm == "linf" else _NEAR_IN_SUMS * options.eps
        return len(moved) >= _FEWEST and bool(np.max(moved) < least)

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        explained = {"left-the-ball", "no-gradients", "zero-gradient"} & evaluation.raised
        zero = any(batch.without_gradient for batch in evaluation.batches)
        return super().applies(evaluation) and not explained and not zero

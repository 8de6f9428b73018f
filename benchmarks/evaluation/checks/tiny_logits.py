"""The flag of logits so close together that the attack's loss follows another direction than at the usual scale."""

from __future__ import annotations

from typing import ClassVar

from torch.nn.functional import cosine_similarity

from robustbench_cli.attacks.base.losses import slope_and_value, unmasked_spread
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["TinyLogits"]

_TINY, _USUAL = 0.5, 10.0
"""The spread of the logits below which the softmax is nearly uniform, and that of a trained network.

In the gallery, honest models have at least 1.4 (TRADES) at images that the attack followed. A plain network has 13, and at a sixtieth 0.2.
"""

_SAME_DIRECTION = 0.9
"""The smallest cosine of two slopes of a loss in the same direction."""


class TinyLogits(Check):
    """The loss that the attack followed is differentiated at its logits, and at these logits with the usual spread."""

    text: ClassVar[str] = (
        "the logits are so close together that the softmax is nearly uniform: the loss of the attack follows all classes at once"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "In a model without draws, the largest logit is less than 0.5 above the mean of all classes for half of 8 images that the "
        "attack followed, and the slope of its loss at these logits has a median cosine below 0.9 with that at logits with a spread "
        "of 10."
    )
    why: ClassVar[str] = (
        "The cross-entropy then pulls every other class up alike, and not the nearest one. On a small network, PGD left 26 % at "
        "a scale of 1e-6 and 10 % at the usual one, with the same predictions."
    )
    remedy: ClassVar[str] = (
        "Multiply the logits by a constant, which changes no prediction: the temperature of a cosine classifier, or what a wrapper "
        "divided by. Or attack with a loss that has no scale: apgd-dlr, cw-pgd, --suite standard."
    )
    source: ClassVar[str] = (
        "Own test; on the scale of logits: Croce, Hein: Reliable Evaluation of Adversarial Robustness. ICML 2020, section 4"
    )

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        sample = batch.source.sample
        if sample is None:
            return False
        logits = sample.logits.double()
        spread = unmasked_spread(logits)
        if not bool(spread.isfinite().all()) or not 0 < float(spread.median()) < _TINY:
            return False
        usual = logits * (_USUAL / spread.clamp_min(1e-300))[:, None]
        slope, usual_slope = (slope_and_value(sample.loss, values, sample.labels)[0] for values in (logits, usual))
        return bool(cosine_similarity(slope, usual_slope, eps=1e-300).median() < _SAME_DIRECTION)

"""The flag of predictions that the order of the classes decides."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.attacks.base.models.decision import can_reject
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["TiedLogits"]

_SHARE, _LEAST = 0.01, 2
"""The share and the number of images above which ties are no coincidence."""


class TiedLogits(Check):
    """Ties are counted on the clean and on the perturbed images, where the true class is one of the tied."""

    text: ClassVar[str] = "the largest logit is shared by several classes, the true one among them: their order decides"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "For more than 1 % and at least two of the clean images, or of the images that the baseline attack leaves, the logit of "
        "the true class and that of another are equal and the largest."
    )
    why: ClassVar[str] = (
        "The argmax of equal logits is the first of the classes. An image can count as correct although the model does not "
        "prefer its class, and an attack that looks for a negative margin sees none."
    )
    remedy: ClassVar[str] = (
        "Give the logits before what makes them equal: a clamp, a rounding, a cap on the confidence. Count a tie as an error."
    )
    source: ClassVar[str] = (
        "Own test; Croce, Hein: Reliable Evaluation of Adversarial Robustness. ICML 2020, on outputs that are equal up to rounding"
    )
    needs: ClassVar[tuple[Need, ...]] = ("logits", "baseline")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        perturbed = model_logits(probe.measured, probe.baseline.perturbed.to(probe.images))
        for logits, which in ((probe.logits, "clean"), (perturbed, "perturbed")):
            largest = logits == logits.max(1, keepdim=True).values
            number = len(logits)
            tied = largest.gather(1, probe.labels[:number, None])[:, 0] & (largest.sum(1) > 1)
            if can_reject(probe.model):
                # Equal logits are a rejection.
                tied &= ~largest.all(1)
            count = int(tied.sum())
            if count >= _LEAST and count > _SHARE * number:
                return self.finding(f"{count} of {number} {which} images are tied", tied=count, n=number)
        return None

    def passes(self, probe: ModelProbe) -> int:
        return probe.baseline_images

"""The flag of a model whose logits are so far apart that the softmax saturates."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["SaturatedLogits"]

_UNDERFLOW = 104.0
"""The gap of two logits from which the smaller probability is 0 in float32: exp(-104) is below the smallest number, 2**-149."""


class SaturatedLogits(Check):
    """The gap between the two largest logits decides."""

    text: ClassVar[str] = (
        "the softmax of most clean images is exactly 0 and 1 in float32: the gradient of the cross-entropy is zero there"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "For more than half of the clean images the two largest logits are more than 104 apart, where the softmax of all other "
        "classes underflows to 0 in float32."
    )
    why: ClassVar[str] = (
        "The cross-entropy of a correctly classified image is then exactly 0 with a zero gradient. Attacks with this loss stay "
        "where they are."
    )
    remedy: ClassVar[str] = (
        "Divide the logits by a constant, which changes no prediction, or attack with a loss that does not saturate: apgd-dlr "
        "or cw-pgd."
    )
    source: ClassVar[str] = (
        "Carlini, Wagner: Defensive Distillation is Not Robust to Adversarial Examples. arXiv 1607.04311; Croce, Hein: Reliable "
        "Evaluation of Adversarial Robustness. ICML 2020, section 4"
    )
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        largest = probe.logits.double().topk(2, dim=1).values
        gaps = largest[:, 0] - largest[:, 1]
        # A class may be masked by a logit of -inf, and a gap of infinity minus infinity is no number.
        share = float((gaps.isfinite() & (gaps > _UNDERFLOW)).double().mean())
        if share <= 0.5:
            return None
        return self.finding(
            f"the two largest logits are more than {_UNDERFLOW:.0f} apart for {share:.3f} of the images; the median gap is "
            f"{float(gaps.nan_to_num().median()):.4g}",
            share=share,
        )

"""The flag of a model whose cross-entropy saturates: PGD on the margin breaks more."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import second_attack, second_attack_passes

__all__ = ["MarginBeatsCrossEntropy"]

_ALLOWED = 0.25
"""The share of the images left by PGD on the cross-entropy that PGD on the margin may break.

On adversarially trained networks the margin is the better loss by several points, which is no fault of the model.
"""


class MarginBeatsCrossEntropy(Check):
    """The margin of the logits does not saturate where the softmax does."""

    text: ClassVar[str] = (
        "the margin breaks many of the images that PGD on the cross-entropy left: the cross-entropy saturates"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "PGD on the margin breaks more than a quarter of the images that the baseline PGD left, by an exact binomial test at level "
        "0.001; or for a randomized model, it leaves fewer of the same images, by a paired test at that level."
    )
    why: ClassVar[str] = (
        "The gradient of the cross-entropy underflows where one probability is nearly 1, as with large logits. The accuracy "
        "under attacks on the cross-entropy alone is then too high."
    )
    remedy: ClassVar[str] = (
        "Attack the margin or the DLR loss too: --attack cw-pgd, --attack apgd-dlr, --suite standard."
    )
    source: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. S&P 2017; Croce, Hein: Reliable Evaluation of "
        "Adversarial Robustness. ICML 2020, section 4"
    )
    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        stronger = second_attack(probe, _attack(probe), allowed=_ALLOWED)
        if stronger is None:
            return None
        return self.finding(f"PGD on the margin {stronger.evidence}", severity=self.severity, **stronger.figures)

    def passes(self, probe: ModelProbe) -> int:
        return second_attack_passes(probe, _attack(probe))


def _attack(probe: ModelProbe) -> CWPGD:
    return CWPGD(steps=probe.effort(20, 40, 100))

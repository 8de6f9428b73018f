"""The flag of a gradient attack that breaks clearly more images with twice the steps and more restarts."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import scored
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import compared_on_first_images
from robustbench_cli.benchmarks.evaluation.statistics.paired import compare_paired

__all__ = ["NotConverged"]

_LEVEL = 0.01
"""The probability of a false alarm if both attacks are equally strong."""


class NotConverged(Check):
    """The longer attack has other random starts too. Both are scored on the same held-out draws.

    On a randomized model, whose passes cost as many as there are draws, it runs on the first images only.
    """

    text: ClassVar[str] = "twice the steps and more restarts break clearly more images: the attack had not converged"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "PGD with twice the steps and three restarts leaves less than the 95 % confidence interval of the baseline PGD's robust "
        "accuracy, and a paired test (the exact test of McNemar for deterministic models) rejects equality at level 0.01. "
        "Randomized models are compared on the first 100 images (300 with the budget thorough), where the accuracy must fall by "
        "about 0.1; it stops after 50 images if it lowers the accuracy of these by less than 0.03."
    )
    why: ClassVar[str] = (
        "The accuracy under an attack that has not converged is an artifact of its budget: more steps lower it further. A "
        "rugged or flat loss around the images is the usual cause."
    )
    remedy: ClassVar[str] = (
        "Give more steps and restarts until the accuracy stays: --set pgd.steps=400 --set pgd.restarts=5."
    )
    source: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020; Carlini, "
        "Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        attack = _longer(probe)
        if probe.randomized:
            pair = compared_on_first_images(probe, attack)
        else:
            pair = scored(probe.baseline.outcomes), scored(probe.evaluate(attack).outcomes)
        if pair is None:
            return None
        before, after = pair
        if after.accuracy >= before.interval(0.95)[0] or compare_paired(before, after).p_value >= _LEVEL:
            return None
        return self.finding(
            f"PGD with {attack.steps} steps and {attack.restarts} restarts lowers the robust accuracy of PGD with "
            f"{attack.steps // 2} steps from {before.accuracy:.3f} to {after.accuracy:.3f}",
            robust_accuracy=before.accuracy,
            robust_accuracy_longer=after.accuracy,
        )

    def passes(self, probe: ModelProbe) -> int:
        return probe.passes_of(_longer(probe), probe.second_attack_images if probe.randomized else len(probe))


def _longer(probe: ModelProbe) -> PGD:
    """The longer attack."""
    baseline = probe.baseline_attack
    assert isinstance(baseline, PGD)
    return PGD(steps=2 * baseline.steps, restarts=3)

"""The flag of a gradient attack that breaks clearly more images with twice the steps and more restarts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval

__all__ = ["NotConverged"]

_LEAST = 0.02
"""The smallest fall of the accuracy that is flagged."""


class NotConverged(Check):
    """The longer attack has other random starts too. Both are scored on the same held-out draws."""

    text: ClassVar[str] = "twice the steps and more restarts break clearly more images: the attack had not converged"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "PGD with twice the steps and three restarts lowers the robust accuracy of the baseline PGD by 2 points or more, and "
        "the 95 % confidence interval of the paired difference over the images is above 0."
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
        before, after = (
            (outcomes.worst() == outcomes.labels).mean(axis=0)
            for outcomes in (probe.baseline.outcomes, probe.evaluate(_longer(probe)).outcomes)
        )
        # The images that the baseline broke count as broken, so the fall is that of the worst case of both.
        fall = before - np.minimum(before, after)
        low = 2 * mean_interval((1 + before - after) / 2)[0] - 1
        if low <= 0 or fall.mean() < _LEAST:
            return None
        attack = _longer(probe)
        return self.finding(
            f"PGD with {attack.steps} steps and {attack.restarts} restarts lowers the robust accuracy of PGD with "
            f"{attack.steps // 2} steps from {before.mean():.3f} to {before.mean() - fall.mean():.3f}",
            robust_accuracy=float(before.mean()),
            robust_accuracy_longer=float(before.mean() - fall.mean()),
        )

    def passes(self, probe: ModelProbe) -> int:
        return probe.passes_of(_longer(probe))


def _longer(probe: ModelProbe) -> PGD:
    """The longer attack."""
    baseline = probe.baseline_attack
    assert isinstance(baseline, PGD)
    return PGD(steps=2 * baseline.steps, restarts=3)

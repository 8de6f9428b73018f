"""The flag of a gradient attack that breaks clearly more images with more steps and restarts, or with more draws."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import scored
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import (
    compared_on_first_images,
    second_attack_passes,
)
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, compare_paired

__all__ = ["NotConverged"]

_LEVEL = 0.01
"""The probability of a false alarm if all attacks are equally strong. Two longer attacks share it."""


class NotConverged(Check):
    """The longer attacks have other random starts too. All are scored on the same held-out draws.

    On a randomized model, whose passes cost as many as there are draws, they run on the first images only. The interval is that of
    all images.
    """

    text: ClassVar[str] = (
        "twice the steps and more restarts, or twice the draws, break clearly more images: the attack had not converged"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "PGD with twice the steps and three restarts (two on a randomized model), or on a randomized model whose draws are sampled PGD with twice "
        "the draws (--eot 2K), lowers the robust accuracy of the baseline PGD by more than the lower half of its 95 % confidence "
        "interval, and a paired test (the exact test of McNemar for deterministic models) rejects equality at level 0.01, shared by "
        "the two comparisons. Randomized models are compared on the first 100 images (300 with the budget thorough), where an attack "
        "stops after 50 images if it lowers their accuracy by less than 0.03; the interval is that of all images of the baseline. A fall of "
        "0.06 to 0.09 is seen with 100 of 200 images, and of 0.04 to 0.05 with 300 of 500."
    )
    why: ClassVar[str] = (
        "The accuracy under an attack that has not converged is an artifact of its budget: more steps or more draws lower it further. A "
        "rugged or flat loss around the images, or the noise of few draws, is the usual cause."
    )
    remedy: ClassVar[str] = (
        "Give more steps, restarts or draws until the accuracy stays: --set pgd.steps=400 --set pgd.restarts=5, --eot 100."
    )
    source: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020; Carlini, "
        "Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        baseline = scored(probe.baseline.outcomes)
        resolution = baseline.accuracy - baseline.interval(0.95)[0]
        attacks = _longer_attacks(probe)
        for longer in attacks:
            pair = _compared(probe, longer)
            if pair is None:
                continue
            before, after = pair
            comparison = compare_paired(before, after)
            if comparison.difference > resolution and comparison.p_value < _LEVEL / len(attacks):
                return self.finding(
                    f"PGD with {longer.text} lowers the robust accuracy of {probe.baseline_name} from {before.accuracy:.3f} to "
                    f"{after.accuracy:.3f} on {len(after.shares)} images",
                    robust_accuracy=before.accuracy,
                    robust_accuracy_longer=after.accuracy,
                )
        return None

    def passes(self, probe: ModelProbe) -> int:
        if not probe.randomized:
            return sum(probe.passes_of(longer.attack) for longer in _longer_attacks(probe))
        return sum(longer.factor * second_attack_passes(probe, longer.attack) for longer in _longer_attacks(probe))


class _Longer(NamedTuple):
    """An attack that is longer than the baseline.

    Attributes:
        attack: The attack.
        eot: Its draws per gradient.
        text: What is more, in a few words.
        factor: How many times as many draws as the baseline it has.
    """

    attack: PGD
    eot: EOTChoice
    text: str
    factor: int = 1


def _longer_attacks(probe: ModelProbe) -> list[_Longer]:
    """More steps and restarts, and more draws where they are sampled."""
    baseline = probe.baseline_attack
    assert isinstance(baseline, PGD)
    steps = PGD(steps=2 * baseline.steps, restarts=2 if probe.randomized else 3)
    attacks = [_Longer(steps, "auto", f"{steps.steps} steps and {steps.restarts} restarts")]
    source = probe.measured.source("auto")
    if not source.exhaustive:
        attacks.append(
            _Longer(PGD(steps=baseline.steps), 2 * source.draws, f"{2 * source.draws} draws per gradient", 2)
        )
    return attacks


def _compared(probe: ModelProbe, longer: _Longer) -> tuple[ScoredDraws, ScoredDraws] | None:
    """What the baseline and a longer attack left of the same images; ``None`` if the latter stopped."""
    if probe.randomized:
        return compared_on_first_images(probe, longer.attack, eot=longer.eot)
    return scored(probe.baseline.outcomes), scored(probe.evaluate(longer.attack).outcomes)

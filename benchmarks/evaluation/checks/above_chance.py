"""The flag of an accuracy above chance at a radius at which all images can become the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO, RowGroup, Threat, chance, scored

if TYPE_CHECKING:
    from robustbench_cli.attacks.cw_pgd import CWPGD
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["AboveChance"]

_GRAY = 0.5
"""The radius in linf from which on every image can become the same gray image."""


class AboveChance(Check):
    """At such a radius the best possible attack leaves the images of one class.

    In a model, PGD on the margin runs with a ball that holds every image.
    """

    text: ClassVar[str] = "above chance at a radius at which every image can become the same: the attack failed"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "In linf at a radius of 0.5 or more, or under a minimal-norm attack at any distance on a deterministic model, the lower "
        "end of the 95 % confidence interval of the robust accuracy is above the share of the most frequent class. "
        "In a model: PGD on the margin at the distance between the black and the white image leaves such a robust accuracy, and "
        "more than a tenth of the clean accuracy."
    )
    why: ClassVar[str] = (
        "In linf, a radius of 0.5 turns every image into the same gray one, which has one prediction. An attack that leaves "
        "more misses adversarial images, and may miss them at smaller radii too."
    )
    remedy: ClassVar[str] = (
        "Look for the cause in the other flags; use more steps, and attacks by scores and decisions."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1 (unbounded attacks "
        "do not reach 100 % success); Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (unconstrained attack "
        "failure)"
    )

    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("gradients",)

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        share = chance(rows.labels)
        for threat in rows.untargeted:
            if _is_unbounded(threat, rows) and threat.interval[0] > share:
                return self.finding(
                    f"at {threat.text} the robust accuracy is {threat.robust_accuracy:.3f}, and the most frequent class has "
                    f"{share:.3f} of the images",
                    robust_accuracy=threat.robust_accuracy,
                    chance=share,
                )
        return None

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        import torch

        radius = _largest(probe)
        outcomes = probe.evaluate(_attack(probe), torch.arange(_images(probe)), eps=radius).outcomes
        attacked, share = scored(outcomes), chance(outcomes.labels)
        low, _ = attacked.interval(0.95)
        if low <= share or attacked.accuracy <= NEAR_ZERO * outcomes.clean_right.mean():
            return None
        return self.finding(
            f"at eps {radius:g}, from where every image can become any other, PGD on the margin leaves {attacked.accuracy:.3f}, and "
            f"the most frequent class has {share:.3f} of the images",
            robust_accuracy=attacked.accuracy,
            chance=share,
        )

    def passes(self, probe: ModelProbe) -> int:
        return probe.passes_of(_attack(probe), _images(probe))


def _attack(probe: ModelProbe) -> CWPGD:
    from robustbench_cli.attacks.cw_pgd import CWPGD

    return CWPGD(steps=probe.effort(20, 40, 100))


def _images(probe: ModelProbe) -> int:
    return min(len(probe), probe.effort(50, 100, 200))


def _largest(probe: ModelProbe) -> float:
    """The distance between the black and the white image."""
    pixels = probe.images[0].numel()
    return float({"linf": 1, "l2": pixels**0.5, "l1": pixels}[probe.norm])


def _is_unbounded(threat: Threat, rows: RowGroup) -> bool:
    """Whether all images can become the same inside the threat model, so that no model is better than chance."""
    if all(row.access == "none" for row in threat.rows):
        return False
    if threat.eps is None:
        # Against a randomized model a perturbation that fools every draw may not exist.
        return not rows.randomized
    return rows.norm == "linf" and threat.eps >= _GRAY

"""The flag of rows in which an attack without the model's gradients is stronger than those that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup, Threat
from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval
from robustbench_cli.benchmarks.evaluation.statistics.paired import holm, p_value_of_a_lead

if TYPE_CHECKING:
    from robustbench_cli.attacks.cw_pgd import CWPGD
    from robustbench_cli.attacks.square import Square
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["QueryBeatsGradient"]

_LEVEL = 0.01
"""The probability of a false alarm per group of rows, if the attacks are equally strong."""

_BROKEN = 0.25
"""The share of the images left by the gradient attacks above which these are misled. Below it, a margin loss may be all they lack."""

_SHARE = 0.05
"""In a cascade, the share of the images left by the gradient attacks that an attack without gradients may break."""

_ALLOWED = 0.1
"""The share of the images left by the baseline PGD that Square may break: a margin loss breaks some that the cross-entropy leaves."""


class QueryBeatsGradient(Check):
    """An attack in a cascade ran only on the images that earlier attacks left, so it is compared on these alone.

    In a model, Square runs on images that the baseline PGD left.
    """

    text: ClassVar[str] = (
        "an attack by scores, decisions or transfer is stronger than the attacks by gradients: these are misled"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "At a radius at which the robust accuracy is not near zero, an attack by scores, decisions or transfer leaves fewer "
        "images than the worst case over the attacks by gradients, by a paired test (the exact test of McNemar for deterministic "
        "models) at level 0.01 with Holm's correction for all such attacks. It is only suspicious if they leave at least three quarters of it. In a cascade: it breaks more than 5 % of the images "
        "that the others left, by the lower end of the 95 % confidence interval. In a model: Square breaks more than 10 % of the "
        "images that the baseline PGD left, and of those that PGD on the margin with five restarts left too, by an exact binomial test at level 0.001; or for a randomized model, it leaves fewer "
        "of the same images, by a paired test at that level; it stops after 50 images if it lowers the accuracy of these by less than 0.03."
    )
    why: ClassVar[str] = (
        "An attack with gradients has more information. If it is the weaker one, the gradients are masked, or "
        "it has too few steps or the wrong loss. An adaptive attack may break still more than the one without gradients."
    )
    remedy: ClassVar[str] = (
        "Attack the cause: a differentiable approximation of the layer (BPDA), EOT, a loss of the margin; more steps and restarts."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1; Carlini, Athalye, "
        "Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )

    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline")

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        threats = [threat for threat in rows.untargeted if threat.eps is not None and not threat.is_near_zero]
        gradients = [
            [row for row in threat.rows if row.access == "gradients" and not row.cascade] for threat in threats
        ]
        bases = [(threat, threat.under(some)) for threat, some in zip(threats, gradients, strict=True) if some]
        compared = [
            (threat, row, base)
            for threat, base in bases
            for row in threat.rows
            if row.access not in {"gradients", "none"} and not row.cascade
        ]
        p_values = holm([p_value_of_a_lead(base.scored, row.scored, level=_LEVEL) for _, row, base in compared])
        found = [(threat, row, base) for (threat, row, base), p in zip(compared, p_values, strict=True) if p < _LEVEL]
        if found:
            threat, row, base = min(found, key=lambda entry: entry[1].robust_accuracy - entry[2].robust_accuracy)
            return self.finding(
                f"at {threat.text} {row.attack} leaves {row.robust_accuracy:.3f}, and the attacks by gradients leave "
                f"{base.robust_accuracy:.3f}",
                severity="broken" if row.robust_accuracy < (1 - _BROKEN) * base.robust_accuracy else "suspicious",
                robust_accuracy_without=row.robust_accuracy,
                robust_accuracy_with=base.robust_accuracy,
            )
        return next(filter(None, map(self._in_cascade, threats)), None)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import second_attack

        attack = _square(probe)
        stronger = second_attack(probe, attack, allowed=_ALLOWED, restarted=_restarted(probe))
        if stronger is None:
            return None
        return self.finding(
            f"Square with {attack.queries} queries {stronger.evidence}", severity=self.severity, **stronger.figures
        )

    def passes(self, probe: ModelProbe) -> int:
        from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import second_attack_passes

        restarted = 0 if probe.randomized else second_attack_passes(probe, _restarted(probe))
        return second_attack_passes(probe, _square(probe)) + restarted

    def _in_cascade(self, threat: Threat) -> Finding | None:
        """A finding where the attacks of a cascade that use no gradients break many of the images that the others left."""
        with_gradients = [row for row in threat.rows if row.access in {"gradients", "none"}]
        later = [row for row in threat.rows if row.cascade and row not in with_gradients]
        if not later or all(row.access == "none" for row in with_gradients):
            return None
        base = threat.under(with_gradients).right
        left = base > 0
        if not left.any():
            return None
        after = np.minimum.reduce([base, *(row.right for row in later)])
        broken = (1 - after[left] / base[left]).astype(np.float64)
        low, _ = mean_interval(broken)
        if low <= _SHARE:
            return None
        return self.finding(
            f"at {threat.text} {', '.join(row.attack for row in later)} breaks {broken.mean():.3f} of the {left.sum()} images "
            "that the attacks by gradients left",
            broken=float(broken.mean()),
            left=int(left.sum()),
        )


def _restarted(probe: ModelProbe) -> CWPGD:
    """An attack by gradients with several starts, as a search by scores has many."""
    from robustbench_cli.attacks.cw_pgd import CWPGD

    return CWPGD(steps=probe.effort(20, 40, 100), restarts=5)


def _square(probe: ModelProbe) -> Square:
    from robustbench_cli.attacks.square import Square

    return Square(queries=probe.effort(100, 400, 1000))

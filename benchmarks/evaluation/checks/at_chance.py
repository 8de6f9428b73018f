"""The flag of a model whose clean accuracy cannot be told from chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup, chance
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["AtChance"]


class AtChance(Check):
    """A model that always answers the most frequent class has the accuracy of chance, and no attack can lower it far."""

    text: ClassVar[str] = "the clean accuracy cannot be told from that of chance: there is nothing to attack"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The lower end of the 95 % confidence interval of the clean accuracy is not above the share of the most frequent class. Images of a "
        "single class decide nothing."
    )
    why: ClassVar[str] = (
        "The robust accuracy of a model that learned nothing says nothing of a defense. Usually the weights were not loaded, the "
        "normalization or the order of the classes is wrong, or the images are of other data."
    )
    remedy: ClassVar[str] = (
        "Check the weights, the data set, --mean and --std, and the order of the classes; with few images, give more: --n 1000."
    )
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705, section 4.2 (report the clean accuracy)"
    )
    advises: ClassVar[bool] = True

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        return self._finding(rows.rows[0].outcomes)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        return self._finding(probe.baseline.outcomes)

    def _finding(self, outcomes: Outcomes) -> Finding | None:
        clean = ScoredDraws(right=outcomes.clean_right, shared=bool(outcomes.draws_shared))
        (low, high), share = clean.interval(0.95), chance(outcomes.labels)
        if low > share or share == 1:
            return None
        return self.finding(
            f"the clean accuracy of {len(outcomes.labels)} images is between {low:.3f} and {high:.3f}, and the most frequent class "
            f"has {share:.3f} of them",
            low=low,
            high=high,
            chance=share,
            n=len(outcomes.labels),
        )

"""The flag of an attack that breaks images on its way and does not return what broke them."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["SilentSuccess"]

_SHARE = 0.01
"""The least share of a batch whose successes are lost."""


class SilentSuccess(Check):
    """An attack should return the best of its iterates; those of this project do.

    A lost success is projected and scored by the deployed decision rule, so there is no false alarm.
    """

    text: ClassVar[str] = "the attack broke images on its way and returned others that are classified correctly"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "A deterministic model misclassifies points inside the ball that a fixed-radius attack queried, for at least 1 % of the images of a "
        "batch, though it classifies what the attack returned for them correctly. Queries of the whole batch count."
    )
    why: ClassVar[str] = "The robust accuracy counts images as robust for which the attack had an adversarial image."
    remedy: ClassVar[str] = (
        "Return the best iterate instead of the last one, as the attacks of this project do (in another library, look for an option of this "
        "kind), or add --attack pgd."
    )
    source: ClassVar[str] = (
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (silent success)"
    )
    position: ClassVar[int] = 137

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return 0 < batch.silent_successes >= _SHARE * len(batch.images)

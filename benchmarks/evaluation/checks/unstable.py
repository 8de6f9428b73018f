"""The flag of a model whose predictions depend on the batch or on the number of queries."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch
from robustbench_cli.benchmarks.evaluation.checks.base.same_predictions import SamePredictions

__all__ = ["Unstable"]


class Unstable(SamePredictions):
    """The rows of a batch must be independent, and a second pass must give the same predictions."""

    text: ClassVar[str] = (
        "the model gives different predictions for the same image in another batch, or in a second pass"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "The logits of an image change when it passes a second time, alone or in half a batch in reverse order, at the same draws. Or "
        "its prediction differs from that in the batch that was scored, by more than rounding."
    )
    why: ClassVar[str] = (
        "The prediction depends on the other images or on the number of queries. The attack optimizes against one "
        "batch and is scored in another."
    )
    remedy: ClassVar[str] = "Evaluate in eval mode, with stored batch statistics and without state between passes."
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    position: ClassVar[int] = 50

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return not (batch.agrees_with_fresh_copy or batch.agrees(batch.scorer))

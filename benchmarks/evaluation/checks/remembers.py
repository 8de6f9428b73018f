"""The flag of a model whose predictions depend on earlier queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import logits_differ
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch
from robustbench_cli.benchmarks.evaluation.checks.base.same_predictions import SamePredictions

__all__ = ["Remembers", "remembers"]


class Remembers(SamePredictions):
    """A copy of the model that has answered no query must give the same predictions."""

    text: ClassVar[str] = (
        "a fresh copy of the model gives different predictions: earlier queries change later predictions"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "A copy of the model that has answered no query gives other logits for the perturbed images, at the same draws. The copy "
        "has its own copy of the globals and class attributes of the model's files; other state outside of the model is not seen."
    )
    why: ClassVar[str] = (
        "A model that recognizes the queries of an attack hides its weakness from the attack only. A fresh deployment "
        "does not."
    )
    remedy: ClassVar[str] = "Evaluate a model without state between queries."
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    position: ClassVar[int] = 60

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        if batch.fresh is None or batch.agrees_with_fresh_copy:
            return False
        images, indices = batch.checked_images
        return remembers(batch.scorer.logits, batch.fresh.logits, images, indices, noise=batch.scorer.noise)


def remembers(
    logits: Callable[[Tensor, Tensor], Tensor],
    fresh: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    indices: Tensor,
    *,
    noise: float | None = None,
) -> bool:
    """Whether a fresh copy of a model, which has answered no query, gives different logits for the same images.

    Args:
        logits: See :func:`~.base.measurements.logits_in_parts`.
        fresh: The same for the fresh copy.
        images: ``(N, C, H, W)`` in [0, 1], the perturbed images.
        indices: ``(N,)``, their indices in the data slice.
        noise: See :func:`~.base.measurements.logits_in_parts`.
    """
    return logits_differ(fresh(images, indices), logits(images, indices), noise)

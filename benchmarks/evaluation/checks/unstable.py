"""The flag of a model whose predictions depend on the batch or on the number of queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import logits_differ, logits_in_halves
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch
from robustbench_cli.benchmarks.evaluation.checks.base.same_predictions import SamePredictions

__all__ = ["Unstable", "is_unstable"]


class Unstable(SamePredictions):
    """The rows of a batch must be independent, and a second pass must give the same predictions."""

    text: ClassVar[str] = (
        "the model gives different predictions for the same image in another batch, or in a second pass"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "The logits of an image change when it passes a second time, in half a batch and in reverse order, at the same draws."
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
        if batch.agrees_with_fresh_copy:
            return False
        images, indices = batch.checked_images
        return is_unstable(batch.scorer.logits, images, indices, noise=batch.scorer.noise)


def is_unstable(
    logits: Callable[[Tensor, Tensor], Tensor], images: Tensor, indices: Tensor, *, noise: float | None = None
) -> bool:
    """Whether a model's logits of an image depend on the other images of the batch, or change in a second pass.

    The images pass a second time in two halves, in the opposite order.

    Args:
        logits: Gives the logits ``(R, N, K)`` of images ``(N, C, H, W)`` with indices ``(N,)``, at the draws of these
            indices.
        images: ``(N, C, H, W)`` in [0, 1].
        indices: ``(N,)``.
        noise: The tolerance of a logit; see :func:`~robustbench_cli.attacks.base.losses.rounding`.
    """
    return logits_differ(logits(images, indices), logits_in_halves(logits, images, indices), noise)

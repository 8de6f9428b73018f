"""What a check can look at while an evaluation runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import (
    is_repeatable,
    logits_differ,
    logits_in_parts,
)
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult
from robustbench_cli.benchmarks.evaluation.scoring import Candidates, Scorer
from robustbench_cli.benchmarks.evaluation.setup import Setup

__all__ = ["AttackedBatch", "EvaluatedModels", "FinishedEvaluation"]

_NEAR = 0.03
"""The radius in which gradients are checked where the threat has no radius."""

_CHECKED = 64
"""The most perturbed images of a batch that are checked."""


@dataclass(kw_only=True)
class AttackedBatch:
    """A batch that the attack has just finished.

    Attributes:
        setup: The attack, the options and the models.
        images: ``(N, C, H, W)``, the clean images.
        indices: ``(N,)``, their indices in the data slice.
        source: The gradient source that the attack used.
        followed_images: ``(M, C, H, W)``, images at which the attack asked for a gradient; ``None`` if it asked for none.
        candidates: The perturbed images with their predictions.
        left_the_ball: Whether the attack returned images outside the threat model.
        no_gradients: Whether the attack could not run because the model gives no gradients.
        silent_successes: The number of images that the attack broke on its way, though it returned an image that is classified correctly.
        scorer: The deployed decision rule.
        fresh: The deployed rule of a copy of the model that has answered no query yet; ``None`` where there is no copy.
    """

    setup: Setup
    images: Tensor
    indices: Tensor
    source: GradientSource
    followed_images: Tensor | None
    candidates: Candidates
    left_the_ball: bool
    no_gradients: bool
    silent_successes: int
    scorer: Scorer
    fresh: Scorer | None

    @cached_property
    def has_gradients(self) -> bool:
        """Whether the attack followed gradients that can be checked: those of a model whose draws the seed controls."""
        follows = self.setup.follows_gradients and self.followed_images is not None
        return follows and is_repeatable(self.setup.followed)

    @property
    def _checked_rows(self) -> slice:
        """The rows of the checked images, spread over the batch."""
        step = max(1, len(self.indices) // _CHECKED)
        return slice(0, step * _CHECKED, step)

    @property
    def checked_images(self) -> tuple[Tensor, Tensor]:
        """Some of the perturbed images and their indices in the data slice, for checks of each image's predictions."""
        return self.candidates.worst[self._checked_rows], self.indices[self._checked_rows]

    @cached_property
    def _checked_logits(self) -> Tensor:
        """``(R, n, K)``: the logits of the checked images, in one batch."""
        return self.scorer.logits(*self.checked_images)

    @cached_property
    def agrees_with_fresh_copy(self) -> bool:
        """Whether a fresh copy of the model gives the same predictions, also in other batches."""
        return self.fresh is not None and self.agrees(self.fresh)

    def agrees(self, scorer: Scorer) -> bool:
        """Whether the checked images get the same logits alone and in other batches, and the predictions that were scored.

        The scored batch may have been much larger than these.

        Args:
            scorer: The deployed rule of the model or of a copy of it.
        """
        images, indices = self.checked_images
        logits, noise = logits_in_parts(scorer.logits, images, indices), self.scorer.noise
        if logits_differ(self._checked_logits, logits, noise):
            return False
        if self.setup.single_draw:
            # Each candidate was scored on draws of its own.
            return True
        largest = logits.topk(2, dim=-1).values
        clear = largest[..., 0] - largest[..., 1] > 2 * rounding(logits, noise)
        changed = scorer.decisions_of(logits) != self.candidates.worst_predictions[:, self._checked_rows]
        return not bool((changed & clear).any())

    @property
    def threat(self) -> Threat:
        """The untargeted threat of the first four images, in which gradients are checked."""
        options = self.setup.options
        return self.setup.attack.threat(self.images[:4], norm=options.norm, eps=options.eps or _NEAR, targeted=False)


@dataclass(kw_only=True)
class EvaluatedModels:
    """The models after the attack.

    Attributes:
        setup: The attack, the options and the models.
    """

    setup: Setup

    @cached_property
    def followed_is_repeatable(self) -> bool:
        """Whether the seed controls all draws of the model that the attack follows."""
        return is_repeatable(self.setup.followed)


@dataclass(frozen=True, kw_only=True)
class FinishedEvaluation:
    """An evaluation whose batches are all done.

    Attributes:
        setup: The attack, the options and the models.
        batches: The results of the batches, with the flags that they raised.
        raised: All flags that a batch or the models raised.
    """

    setup: Setup
    batches: Sequence[BatchResult]
    raised: frozenset[str]

"""The flag of gradients that are zero: gradient masking."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import SelectionLayer, use_surrogates
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.probes import EDGE_OFFSET
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import class_gaps, gap_gradients, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, FinishedEvaluation
from robustbench_cli.defenses.base.decision_rules import Decision

__all__ = ["ZeroGradient", "gradient_is_blind"]

_SHARE = 0.01
"""The share of backward passes with a zero gradient above which the flag is raised."""

_LARGEST_STEP = 0.1
"""The largest step by which pixels move in the test, in a ball that allows more."""

_BLIND = 0.1
"""The gradient is blind if pixels without gradient change the logits by more than this share of what the others do.

Fashion-MNIST networks have 0 to 0.001. A network that clips its input inside the box has 0.24, one with a masked gradient
0.6.
"""

_CLEARLY_SEEING = 0.03
"""The share below which a few directions show that the gradient is not blind."""

_DIRECTIONS, _FEW_ROWS = 8, 16
"""The directions in which each image moves, and the images and directions that are tried first."""


class ZeroGradient(Check):
    """An attack by gradients gets no direction where they are zero, in all pixels or in pixels that matter."""

    text: ClassVar[str] = (
        "some input gradients were zero, in all pixels or in pixels that matter: "
        "the attack had no direction to follow (gradient masking)"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "More than 1 % of the backward passes give a zero gradient at an unbroken image, or pixels with a zero "
        "gradient change the logits by more than a tenth of what the other pixels do."
    )
    why: ClassVar[str] = (
        "An attack that follows gradients stays where it is, in all pixels or in those that matter (gradient masking)."
    )
    remedy: ClassVar[str] = (
        "Use a loss of the logits before saturation, a differentiable approximation of the layer (BPDA), or attacks by "
        "scores and decisions: --suite standard. For BPDA, derive the layer from BPDALayer of "
        "robustbench_cli.attacks.base.gradients.bpda and write its function as 'def exact(self, values): return (values * 3).round() / 3'; "
        "its gradient is then that of the identity, or of your 'surrogate'."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1; "
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (unavailable gradients)"
    )
    position: ClassVar[int] = 20

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        if not batch.has_gradients:
            return False
        threat, followed = batch.threat, batch.setup.followed
        step = min(_LARGEST_STEP, float(threat.eps.max())) if threat.norm == "linf" else _LARGEST_STEP
        return gradient_is_blind(followed, followed.images, step)

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        without_gradient = sum(batch.without_gradient for batch in evaluation.batches)
        backwards = sum(batch.backwards for batch in evaluation.batches)
        return super().applies(evaluation) or without_gradient > _SHARE * backwards


def gradient_is_blind(measured: MeasuredModel, images: Tensor, step: float) -> bool:
    """Whether moving the pixels that have a zero gradient, as far as an attack may, still changes the logits.

    A gradient attack never moves such pixels. Each image moves along random signs, once in its pixels with a zero gradient
    and once in all others; the gap between the two largest logits is measured. A model with a
    :class:`~robustbench_cli.attacks.base.gradients.bpda.SelectionLayer` layer is never blind in this sense. A few
    directions settle a clear case, eight any other.

    Args:
        measured: The model, :func:`repeatable <~.base.measurements.is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].
        step: How far a pixel moves.
    """
    if any(isinstance(module, SelectionLayer) for module in measured.model.modules()):
        return False
    with use_surrogates(measured.model), override_layers(measured.model, Decision, approximating=True):
        # Each direction at a draw of its own, where there are draws.
        draws = _DIRECTIONS if measured.randomized else 1
        inside = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET)
        gaps = gap_gradients(measured, inside.repeat(draws, 1, 1, 1))
        if gaps is None or bool(gaps.gradients.all()):
            return False
        rows = inside.repeat(_DIRECTIONS, 1, 1, 1)
        pairs = gaps.pairs.repeat(_DIRECTIONS // draws, 1)
        unseen_pixels = (gaps.gradients == 0).repeat(_DIRECTIONS // draws, 1, 1, 1)
        moves = step * Random.of(0, rows).signs(images.shape[1:]).to(rows)

        def change(pixels: Tensor) -> Tensor:
            part = slice(len(pixels))
            ends = ((rows[part] + sign * moves[part] * pixels).clamp(0, 1) for sign in (1, -1))
            above, below = (class_gaps(model_logits(measured, end), pairs[part]).double() for end in ends)
            return (above - below).square().mean().sqrt()

        def exceeds(share: float, pixels: Tensor) -> bool:
            unseen, seen = change(pixels), change(~pixels)
            matters = (unseen > share * seen) & (unseen > rounding(gaps.logits).median())
            return bool(unseen.isfinite() & seen.isfinite() & matters)

        few = unseen_pixels[: max(_FEW_ROWS, 2 * len(images))]
        return exceeds(_CLEARLY_SEEING, few) and exceeds(_BLIND, unseen_pixels)

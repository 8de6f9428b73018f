"""The flag of an input gradient that disagrees with finite differences of the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, use_surrogates
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random, preserve_generators
from robustbench_cli.attacks.base.threat import project
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import Gaps, class_gaps, gap_gradients, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, EvaluatedModels
from robustbench_cli.defenses.base.decision_rules import Decision

__all__ = ["WrongGradient", "gradient_is_wrong"]

_STEPS = (0.002, 0.01)
_DIRECTIONS = 4
_DRAWS = 8

_ENOUGH = (0.6, 2.5)
"""The smallest correlation of a right gradient with the differences, and the largest ratio of their sizes."""

_SMALLER = 0.75
"""The share of the components that are not zero that are measured without the larger ones.

They have little of the length of a gradient, but most of a step in linf. Along them alone, deterministic honest models of the gallery
have correlations of at least 0.89 and the same size within 1.1. Those of a gradient whose smaller components have wrong signs are at
most 0.1.
"""

_STRAIGHT = 0.5
"""The largest difference between a step's change ahead of an image and behind it, as a part of their sum, that shows no kink.

An adversarially trained network ignores noise up to its radius: its ReLUs have their kinks at this distance from the images. A step
across them changes the gap some 50 times as much as the smaller components predict.
"""

_CLEAR = (0.9, 1.5)
"""The same for a gradient that a few directions and draws show to be right. Among eight unrelated numbers, a correlation of 0.9
has a probability of 1e-3.
"""

_Directed = Callable[[Tensor, Tensor], Tensor]
"""Maps the mean gradients of some rows, and random signs of the same shape, to the directions in which the rows move."""

_FEW_VALUES, _FEW_DRAWS = 8, 4
"""The directions over all images, and the draws, that are tried first."""


class WrongGradient(Check):
    """The gradient is checked at clean images, at images that the attack followed, and at the surface of the ball.

    A model can have a true gradient at images of 8 bits, as all clean images are, and a wrong one between them.
    """

    text: ClassVar[str] = (
        "the input gradient disagrees with finite differences of the logits, or of the surrogate of a layer: "
        "an attack that follows it is misled"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "At random signs of 0.002 and of 0.01 per pixel, the changes of the gap between the two largest logits and "
        "those that the gradient predicts correlate below 0.6, or their sizes differ by more than a factor of 2.5; so also where "
        "only the three quarters of the pixels with the smaller gradients move, at the images that have no kink there, or else by how "
        "much the gradient turns there. Or steps along the signs of the gradient change the gap by less than the gradient predicts "
        "divided by 2.5. Or, in a model without draws, half of 4 gradients that the attack followed have a cosine below 0.6 with those "
        "of the same images alone."
    )
    why: ClassVar[str] = (
        "An attack that follows a gradient of another function is misled (gradient masking), whatever its number of "
        "steps."
    )
    remedy: ClassVar[str] = (
        "Give the attack a differentiable approximation of the layer (BPDA), or use attacks by scores: --suite "
        "standard."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1"
    )
    position: ClassVar[int] = 30

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        if not batch.has_gradients:
            return False
        assert batch.followed_images is not None
        images, threat = batch.images[:4], batch.threat
        random = Random.of(batch.setup.options.seed, images, indices=batch.indices[:4])
        signs = random.signs(images.shape[1:])
        surface = project(images + threat.eps.max().to(images) * signs, images, threat)
        followed = torch.cat([batch.followed_images[:4], surface])
        return gradient_is_wrong(batch.setup.followed, followed) or _depends_on_batch(batch.source)

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        followed = models.setup.followed
        return (
            models.setup.follows_gradients
            and models.followed_is_repeatable
            and gradient_is_wrong(followed, followed.images)
        )


def gradient_is_wrong(measured: MeasuredModel, images: Tensor) -> bool:
    """Whether the input gradient disagrees with central differences of the logits.

    Every image moves along random signs by 0.002 and by 0.01 per pixel, and the gap between the two largest logits is
    measured. Over all images and directions, the differences and the gradient's predictions must have a correlation of at
    least 0.6 and the same size within a factor of 2.5, at one of the two steps at least. Fashion-MNIST networks, plainly
    or noisily trained, have 0.9 to 1 and 0.87 to 1.07 at 0.01. A network behind a quantizer with a small straight-through
    path has at most 0.5 and at least 10, one with a negated gradient -0.96. A few directions come first; if these have a
    correlation of at least 0.9 and the same size within a factor of 1.5, no more are needed.

    A few large components may agree while all others have wrong signs, which a step in linf follows. So the same is measured along
    the smaller components only, and steps along the signs of the gradient must raise the gap as predicted, up to a factor of 2.5.
    At a kink the gap may change more than the smaller components predict, although the gradient is right. So changes that differ
    ahead of an image and behind it are left out. Where they are the majority, the gradient of a deterministic model must turn with
    them: the gradients at both ends must predict, by the same measures, how much the changes ahead and behind differ. A change that
    no gradient follows, such as a ripple of the logits, is no kink.

    A layer whose gradient is that of a surrogate (:class:`~robustbench_cli.attacks.base.gradients.bpda.BPDALayer`) has no
    slope to compare with. Such a model is measured with the surrogates in place of the layers. In addition, each layer and
    its surrogate must change alike, by the same measures, as the layer's input grows from zero. A vote is measured as the
    mean softmax whose gradient it has.

    For a randomized model both are means over two halves of draws. A single draw may jump where the mean is smooth:
    the activations that are pruned depend on the image. The product of one half with the other half has no such noise in
    its mean, so sizes are measured by these products.

    Args:
        measured: The model, :func:`repeatable <~.base.measurements.is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``False`` also where nothing changes by more than noise, and where the gradient is zero, which is the concern of
        another check.
    """
    if _surrogate_disagrees(measured, images):
        return True
    with use_surrogates(measured.model), override_layers(measured.model, Decision, approximating=True):
        return _gradient_disagrees(measured, images)


def _depends_on_batch(source: GradientSource) -> bool:
    """Whether half of the rows of a gradient point elsewhere than the gradient of these rows alone."""
    sample = source.sample
    if sample is None or sample.batch == len(sample.points):
        return False
    _, few = source.gradient(sample.points[::2], sample.labels[::2], sample.loss)
    together, few = sample.gradients[::2].flatten(1).double(), few.flatten(1).double()
    cosines, moves = cosine_similarity(together, few, eps=1e-300), together.any(1) | few.any(1)
    return bool(moves.any()) and bool(cosines[moves].median() < _ENOUGH[0])


def _surrogate_disagrees(measured: MeasuredModel, images: Tensor) -> bool:
    """Whether a layer and its surrogate change differently from a zero input to the input that images give."""
    layers = [module for module in measured.model.modules() if isinstance(module, BPDALayer)]
    if not layers:
        return False
    calls: list[tuple[BPDALayer, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: calls.append((layer, inputs[0].clone())))
        for layer in layers
    ]
    try:
        model_logits(measured, images)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad(), preserve_generators():
        return any(_are_alike(*_changes(layer, inputs), *_ENOUGH) is False for layer, inputs in calls)


def _changes(layer: BPDALayer, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The changes ``(1, n)`` of a layer's and its surrogate's output from a zero input to these inputs."""
    zeros = torch.zeros_like(inputs)
    exact, surrogate = (
        (compute(inputs) - compute(zeros)).double().reshape(1, -1) for compute in (layer.exact, layer.surrogate)
    )
    return exact, surrogate


def _gradient_disagrees(measured: MeasuredModel, images: Tensor) -> bool:
    compared = _Compared(measured, images)
    if _disagrees(compared, _signs) or _step_falls_short(compared):
        return True
    # At the edges of [0, 1] a step is cut on one side only, which looks like a kink.
    inner = _Compared(measured, images.clamp(_STEPS[-1], 1 - _STEPS[-1]))
    return _disagrees(inner, _signs_of_smaller, straight=True)


class _Compared:
    """A model at some images, whose gradients are compared with differences.

    Attributes:
        measured: See :func:`gradient_is_wrong`.
        images: See :func:`gradient_is_wrong`.
    """

    def __init__(self, measured: MeasuredModel, images: Tensor) -> None:
        self.measured, self.images = measured, images
        self._gaps: dict[int, Gaps | None] = {}

    def gaps(self, draws: int) -> Gaps | None:
        """The gradients of some draws, which all directions share; ``None`` where there is no gradient."""
        if draws not in self._gaps:
            measured, images = self.measured, self.images
            # Every draw of a randomized model needs the same two classes.
            pairs = model_logits(measured, images).topk(2).indices.repeat(draws, 1) if measured.randomized else None
            gaps = gap_gradients(measured, images.repeat(draws, 1, 1, 1), pairs)
            self._gaps[draws] = gaps if gaps is not None and bool(gaps.gradients.any()) else None
        return self._gaps[draws]


def _disagrees(compared: _Compared, directed: _Directed, *, straight: bool = False) -> bool:
    """Whether the changes along random signs, or the straight ones among them, disagree with the gradient at both steps."""
    measured, images = compared.measured, compared.images
    if measured.randomized:
        few, all_of_them = _Effort(2, _FEW_DRAWS, 1), _Effort(2, _DRAWS, 1)
    else:
        few, all_of_them = _Effort(1, 1, math.ceil(_FEW_VALUES / len(images))), _Effort(1, 1, _DIRECTIONS)
    if few.directions < _DIRECTIONS:
        clear = (_are_alike(*both, *_CLEAR) for both in _changes_along(compared, few, directed, straight=straight))
        if any(alike is True for alike in clear):
            return False
    changes = _changes_along(compared, all_of_them, directed, straight=straight)
    agreements = [_are_alike(*both, *_ENOUGH) for both in changes]
    return bool(agreements) and all(alike is False for alike in agreements)


def _step_falls_short(compared: _Compared) -> bool:
    """Whether the steps along the signs of the gradient, as an attack in linf takes them, raise the gap far less than it predicts."""
    effort = _Effort(2, _FEW_DRAWS, 1) if compared.measured.randomized else _Effort(1, 1, 1)
    changed = False
    for differences, predictions in _changes_along(compared, effort, lambda gradients, _: gradients.sign()):
        changed = True
        if not bool(_ENOUGH[1] * differences.sum() < predictions.sum()):
            return False
    return changed


def _signs(_: Tensor, signs: Tensor) -> Tensor:
    return signs


def _signs_of_smaller(gradients: Tensor, signs: Tensor) -> Tensor:
    """The signs at three quarters of the components that are not zero, without the largest."""
    sizes = gradients.flatten(1).abs()
    ranks, zeros = sizes.argsort(1).argsort(1), (sizes == 0).sum(1, keepdim=True)
    smaller = (ranks >= zeros) & (ranks - zeros < _SMALLER * (sizes.shape[1] - zeros))
    return signs * smaller.view_as(signs)


class _Effort(NamedTuple):
    """How thoroughly a gradient is compared.

    Attributes:
        halves: The halves of the draws; 1 for a deterministic model.
        draws: The draws in each half.
        directions: The directions in which each image moves.
    """

    halves: int
    draws: int
    directions: int


def _changes_along(
    compared: _Compared, effort: _Effort, directed: _Directed, *, straight: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The measured and the predicted changes ``(halves, n)`` for each step; nothing where there is no gradient.

    Args:
        compared: The model and the images.
        effort: How many.
        directed: Where the images move.
        straight: Whether only changes without a kink count. Where these are fewer than half, the step is left out if the gradient
            turns as at kinks; else the differences between the changes ahead and behind are compared with its turns.
    """
    halves, draws, directions = effort
    measured, images, gaps = compared.measured, compared.images, compared.gaps(halves * draws)
    if gaps is None:
        return
    rows = images.repeat(directions * halves * draws, 1, 1, 1)
    mean = gaps.gradients.view(halves * draws, *images.shape).mean(0).repeat(directions, 1, 1, 1)
    gradients, pairs = gaps.gradients.repeat(directions, 1, 1, 1), gaps.pairs.repeat(directions, 1)
    middle = class_gaps(gaps.logits, gaps.pairs).repeat(directions)
    random = Random.of(0, images.repeat(directions, 1, 1, 1))
    for step in _STEPS:
        moves = step * directed(mean, random.signs(images.shape[1:]).to(rows)).repeat(halves * draws, 1, 1, 1)
        above, below = (rows + moves).clamp(0, 1), (rows - moves).clamp(0, 1)
        gaps_above, gaps_below = (class_gaps(model_logits(measured, ends), pairs) for ends in (above, below))
        predicted = (gradients * (above - below)).flatten(1).double().sum(1)
        both = (gaps_above - gaps_below, predicted)
        differences, predictions = (change.double().view(halves, draws, -1).mean(1) for change in both)
        if straight:
            bends = (gaps_above + gaps_below - 2 * middle).double().view(halves, draws, -1).mean(1)
            is_straight = bends.mean(0).abs() <= _STRAIGHT * differences.mean(0).abs()
            if 2 * int(is_straight.sum()) >= len(is_straight):
                differences, predictions = differences[:, is_straight], predictions[:, is_straight]
            elif measured.randomized:
                # The jumps of single draws are no kinks of the mean.
                continue
            else:
                # At a kink the gradient turns, as much as the changes on both sides differ. Such a step shows nothing else.
                turns = _turn(measured, above, below, pairs).view_as(bends)
                if _are_alike(bends, turns, *_ENOUGH) is not False:
                    continue
                differences, predictions = bends, turns
        yield differences, predictions


def _turn(measured: MeasuredModel, above: Tensor, below: Tensor, pairs: Tensor) -> Tensor:
    """The difference of the gradients at both ends of moves ``(n, C, H, W)``, times half of the move ``(n,)``."""
    ahead, behind = (gap_gradients(measured, ends, pairs) for ends in (above, below))
    # The model had a gradient between them.
    assert ahead is not None
    assert behind is not None
    return ((ahead.gradients - behind.gradients) * (above - below)).flatten(1).double().sum(1) / 2


def _are_alike(differences: Tensor, predicted: Tensor, correlation: float, factor: float) -> bool | None:
    """Whether measured and predicted changes, each ``(halves, n)``, have the same direction and size.

    Args:
        differences: The measured changes.
        predicted: The changes that the gradient predicts.
        correlation: Their smallest correlation.
        factor: The largest ratio of their sizes.

    Returns:
        ``None`` where nothing changes by more than noise.
    """
    # Changes below the attack's own rounding are no disagreement.
    largest = torch.maximum(differences.abs().max(), predicted.abs().max())
    if not bool(largest.isfinite()) or bool(largest == 0):
        return None
    differences, predicted = differences / largest, predicted / largest
    # With one half, the first is also the last.
    measured_size, predicted_size = differences[0] @ differences[-1], (predicted[0] @ predicted[-1]).clamp_min(0)
    if len(differences) > 1 and bool(measured_size <= 0):
        return None
    common = (differences[0] @ predicted[-1] + predicted[0] @ differences[-1]) / 2
    correlated = correlation * (measured_size * predicted_size).sqrt() <= common
    sizes_differ = (measured_size > factor**2 * predicted_size) | (predicted_size > factor**2 * measured_size)
    return bool(correlated & ~sizes_differ)

"""The flag of an input gradient that disagrees with finite differences of the logits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, use_surrogates
from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random, preserve_generators
from robustbench_cli.attacks.base.threat import project
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import class_gaps, gap_gradients, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch, EvaluatedModels
from robustbench_cli.defenses.base.decision_rules import Decision

__all__ = ["WrongGradient", "gradient_is_wrong"]

_STEPS = (0.002, 0.01)
_DIRECTIONS = 4
_DRAWS = 8


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
        "those that the gradient predicts correlate below 0.6, or their sizes differ by more than a factor of 2.5."
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
        return gradient_is_wrong(batch.setup.followed, torch.cat([batch.followed_images[:4], surface]))

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
    path has at most 0.5 and at least 10, one with a negated gradient -0.96.

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
        return any(_disagree(*_changes(layer, inputs)) for layer, inputs in calls)


def _changes(layer: BPDALayer, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The changes ``(1, n)`` of a layer's and its surrogate's output from a zero input to these inputs."""
    zeros = torch.zeros_like(inputs)
    exact, surrogate = (
        (compute(inputs) - compute(zeros)).double().reshape(1, -1) for compute in (layer.exact, layer.surrogate)
    )
    return exact, surrogate


def _gradient_disagrees(measured: MeasuredModel, images: Tensor) -> bool:
    halves, draws, directions = (2, _DRAWS, 1) if measured.randomized else (1, 1, _DIRECTIONS)
    repeated = images.repeat(directions, 1, 1, 1)
    rows = repeated.repeat(halves * draws, 1, 1, 1)
    mean_logits = model_logits(measured, rows).unflatten(0, (-1, len(images))).mean(0)
    largest = mean_logits.topk(2).indices.repeat(len(rows) // len(images), 1)
    gradient = gap_gradients(measured, rows, largest)
    if gradient is None or not bool(gradient.any()):
        return False
    random = Random.of(0, repeated)

    def disagree(step: float) -> bool:
        signs = random.signs(images.shape[1:]).to(rows).repeat(halves * draws, 1, 1, 1)
        above, below = (rows + step * signs).clamp(0, 1), (rows - step * signs).clamp(0, 1)
        gaps_above, gaps_below = (class_gaps(model_logits(measured, ends), largest) for ends in (above, below))
        predicted = (gradient * (above - below)).flatten(1).double().sum(1)
        pair = (gaps_above - gaps_below, predicted)
        return _disagree(*(changes.double().view(halves, draws, -1).mean(1) for changes in pair))

    return all(disagree(step) for step in _STEPS)


def _disagree(differences: Tensor, predicted: Tensor) -> bool:
    """Whether measured and predicted changes, each ``(halves, n)``, differ too much in direction or in size."""
    # Changes below the attack's own rounding are no disagreement.
    largest = torch.maximum(differences.abs().max(), predicted.abs().max())
    if not bool(largest.isfinite()) or bool(largest == 0):
        return False
    differences, predicted = differences / largest, predicted / largest
    # With one half, the first is also the last.
    measured_size, predicted_size = differences[0] @ differences[-1], (predicted[0] @ predicted[-1]).clamp_min(0)
    if len(differences) > 1 and bool(measured_size <= 0):
        return False
    common = (differences[0] @ predicted[-1] + predicted[0] @ differences[-1]) / 2
    correlated = 0.6 * (measured_size * predicted_size).sqrt() <= common
    sizes_differ = (measured_size > 2.5**2 * predicted_size) | (predicted_size > 2.5**2 * measured_size)
    return bool(~correlated | sizes_differ)

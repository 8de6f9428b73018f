"""Checks that can speak against a row: each asks the model or the attack whether the figure can be believed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, SelectionLayer, use_surrogates
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import override_layers
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.attacks.base.models.probes import EDGE_OFFSET
from robustbench_cli.attacks.base.models.row_draws import row_keys
from robustbench_cli.attacks.base.rng import Random, preserve_generators, seed_from, seed_generators
from robustbench_cli.defenses.base.decision_rules import Decision

__all__ = ["FLAGS", "copy_of", "gradient_is_blind", "gradient_is_wrong", "is_repeatable", "is_unstable", "remembers"]

FLAGS = {
    "no-eot": "the attack followed one draw at a time although the defense is randomized: use --eot 10 or --eot exact",
    "zero-gradient": "some gradients were zero, in every pixel or in pixels that matter: the attack could not see the way",
    "wrong-gradient": "the model's gradient disagrees with finite differences of its logits, or of the surrogate that it names: "
    "an attack that follows it is misled",
    "not-repeatable": "the model draws random numbers that torch's seed does not control: its figures cannot be computed again",
    "unstable": "the model gives other predictions for the same image in another batch, or when it is asked again",
    "remembers": "a fresh copy of the model gives other predictions: what it was asked before changes what it answers",
    "other-draws": "the draws that the model enumerates are not those that it makes: the expectation was taken over sampled draws",
    "not-a-number": "the model gave NaN for some images, which count as misclassified",
    "unchanged": "the attack changed no image that the model classifies correctly",
    "every-draw": "a minimal-norm attack must fool every draw and reports failure otherwise: a fixed-radius attack may leave less",
    "single-draw": "not the expected accuracy: an image counts as misclassified once one draw misclassifies it, the clean "
    "image's draw among them, as AutoAttack counts",
    "few-classes": "with so few classes the attack has fewer targets than it asks for, or the margin in the place of a ratio "
    "of more logits",
    "left-the-ball": "the attack returned images outside the threat model; they were projected back",
    "check-failed": "a check of this row failed with an error: run with -v to see it",
}
"""The names of all checks, and what each means."""

_STEPS = (0.002, 0.01)
_DIRECTIONS = 4
_DRAWS = 8


def is_repeatable(measured: MeasuredModel) -> bool:
    """Whether two passes with the same seed give the same logits, by more than rounding.

    Args:
        measured: The model and the images to ask about.
    """
    first, second = (_logits(measured, measured.images) for _ in range(2))
    return not bool(((first - second).abs() > rounding(first).unsqueeze(-1)).any())


def gradient_is_wrong(measured: MeasuredModel, images: Tensor) -> bool:
    """Whether a model's gradient differs from the central differences of what it computes without one.

    Every image is moved along random signs by 0.002 and by 0.01 a pixel; asked is the gap between the two classes that
    lead. Over all images and directions, differences and the gradient's predictions have to have a correlation of at
    least 0.6 and the same size within a factor of 2.5, at one of the two lengths at least. Fashion-MNIST networks,
    plainly and noisily trained, have 0.9 to 1 and 0.87 to 1.07 at 0.01; a network behind a quantizer with a small
    straight way around it, or with its gradient turned around, at most 0.5 and at least 10, or -0.96.

    A layer that passes gradients back as its surrogate does (:class:`~robustbench_cli.attacks.base.gradients.bpda.BPDALayer`)
    has no slope to compare with. Such a model is measured with the surrogates in the layers' places; and each layer and
    its surrogate have to change alike, by the same measures, as what they are given grows from zero to what images make
    of it. A vote, too, is measured as the mean softmax whose gradient it has.

    Of a randomized model both are means over two halves of draws. One draw may jump where the mean does not: which
    activations are pruned depends on the image. A product of one half with the other has no part of that noise in its
    mean, so sizes are taken from such products.

    Args:
        measured: The model, :func:`repeatable <is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``False`` also where nothing changes that could be told from noise, and where the gradient is zero too, which is
        another check's matter.
    """
    if _a_surrogate_is_another(measured, images):
        return True
    with use_surrogates(measured.model), override_layers(measured.model, Decision, approximating=True):
        return _gradient_disagrees(measured, images)


def _a_surrogate_is_another(measured: MeasuredModel, images: Tensor) -> bool:
    """Whether any layer's surrogate changes otherwise than the layer from a zero input to what images make of it."""
    layers = [module for module in measured.model.modules() if isinstance(module, BPDALayer)]
    if not layers:
        return False
    given: list[tuple[BPDALayer, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: given.append((layer, inputs[0].clone())))
        for layer in layers
    ]
    try:
        _logits(measured, images)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad(), preserve_generators():
        return any(_disagree(*_changes(layer, inputs)) for layer, inputs in given)


def _changes(layer: BPDALayer, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """How a layer's and its surrogate's results ``(1, n)`` differ from those at zero."""
    nothing = torch.zeros_like(inputs)
    exact, surrogate = (
        (compute(inputs) - compute(nothing)).double().reshape(1, -1) for compute in (layer.exact, layer.surrogate)
    )
    return exact, surrogate


def _gradient_disagrees(measured: MeasuredModel, images: Tensor) -> bool:
    halves, draws, directions = (2, _DRAWS, 1) if measured.randomized else (1, 1, _DIRECTIONS)
    moved = images.repeat(directions, 1, 1, 1)
    rows = moved.repeat(halves * draws, 1, 1, 1)
    mean_logits = _logits(measured, rows).unflatten(0, (-1, len(images))).mean(0)
    leading = mean_logits.topk(2).indices.repeat(len(rows) // len(images), 1)
    gradient = _slopes(measured, rows, leading)
    if gradient is None or not bool(gradient.any()):
        return False
    random = Random.of(0, moved)

    def disagree(step: float) -> bool:
        signs = (2 * random.integers(2, images.shape[1:]).to(rows) - 1).repeat(halves * draws, 1, 1, 1)
        above, below = (rows + step * signs).clamp(0, 1), (rows - step * signs).clamp(0, 1)
        differences = _gaps(_logits(measured, above), leading) - _gaps(_logits(measured, below), leading)
        predicted = (gradient * (above - below)).flatten(1).double().sum(1)
        return _disagree(*(each.double().view(halves, draws, -1).mean(1) for each in (differences, predicted)))

    return all(disagree(step) for step in _STEPS)


_BLIND = 0.1
"""What the pixels without a gradient do to the logits, in parts of what the others do, from which on the gradient is blind.

Fashion-MNIST networks have 0 to 0.001; one that sees its input cut inside the box 0.24, one whose gradient is masked 0.6.
"""


def gradient_is_blind(measured: MeasuredModel, images: Tensor, step: float) -> bool:
    """Whether pixels without any gradient matter to the logits nevertheless, if they are moved as far as an attack may.

    An attack leaves such pixels where they are. Each image is moved along random signs, once in its pixels of zero gradient
    and once in all others; asked is the gap between the two classes that lead. A model with a layer that is
    :class:`~robustbench_cli.attacks.base.gradients.bpda.SelectionLayer` is not asked.

    Args:
        measured: The model, :func:`repeatable <is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].
        step: How far a pixel is moved.
    """
    if any(isinstance(module, SelectionLayer) for module in measured.model.modules()):
        return False
    with use_surrogates(measured.model), override_layers(measured.model, Decision, approximating=True):
        rows = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET).repeat(_BLIND_DIRECTIONS, 1, 1, 1)
        logits = _logits(measured, rows)
        leading = logits[: len(images)].topk(2).indices.repeat(_BLIND_DIRECTIONS, 1)
        gradient = _slopes(measured, rows, leading)
        if gradient is None or bool(gradient.all()):
            return False
        signs = 2 * Random.of(0, rows).integers(2, images.shape[1:]).to(rows) - 1

        def change(pixels: Tensor) -> Tensor:
            moves = step * signs * pixels
            ends = ((rows + sign * moves).clamp(0, 1) for sign in (1, -1))
            above, below = (_gaps(_logits(measured, end), leading).double() for end in ends)
            return (above - below).square().mean().sqrt()

        unseen, seen = change(gradient == 0), change(gradient != 0)
    return bool(unseen.isfinite() & seen.isfinite() & (unseen > _BLIND * seen) & (unseen > rounding(logits).median()))


_BLIND_DIRECTIONS = 8


def _disagree(differences: Tensor, predicted: Tensor) -> bool:
    """Whether two sets of slopes, each ``(halves, n)``, are too different in direction or in size."""
    # What an attack could not tell from rounding is no disagreement.
    largest = torch.maximum(differences.abs().max(), predicted.abs().max())
    if not bool(largest.isfinite()) or bool(largest == 0):
        return False
    differences, predicted = differences / largest, predicted / largest
    # Of one half, the first is the last.
    size, other = differences[0] @ differences[-1], (predicted[0] @ predicted[-1]).clamp_min(0)
    if len(differences) > 1 and bool(size <= 0):
        return False
    common = (differences[0] @ predicted[-1] + predicted[0] @ differences[-1]) / 2
    alike = 0.6 * (size * other).sqrt() <= common
    return bool(~alike | (size > 2.5**2 * other) | (other > 2.5**2 * size))


def is_unstable(
    answers: Callable[[Tensor, Tensor], Tensor], images: Tensor, places: Tensor, *, noise: float | None = None
) -> bool:
    """Whether a model's logits of an image depend on the other images of the batch, or on how often it was asked.

    The images come again in the opposite order, all together and then every other one.

    Args:
        answers: Logits ``(R, N, K)`` of images ``(N, C, H, W)`` with places ``(N,)``, on the draws of these places.
        images: ``(N, C, H, W)`` in [0, 1].
        places: ``(N,)``.
        noise: By how much a logit may differ; see :func:`~robustbench_cli.attacks.base.losses.rounding`.
    """
    first = answers(images, places)
    again = answers(images.flip(0), places.flip(0)).flip(1)
    among_fewer = answers(images[::2], places[::2])
    return _differ(first, again, noise) or _differ(first[:, ::2], among_fewer, noise)


def remembers(
    answers: Callable[[Tensor, Tensor], Tensor],
    fresh: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    places: Tensor,
    *,
    noise: float | None = None,
) -> bool:
    """Whether a fresh copy of a model, which has been asked nothing before, gives other logits of the same images.

    Args:
        answers: See :func:`is_unstable`.
        fresh: The same of a fresh copy.
        images: ``(N, C, H, W)`` in [0, 1], which an attack has made.
        places: ``(N,)``.
        noise: See :func:`is_unstable`.
    """
    return _differ(fresh(images, places), answers(images, places), noise)


def _differ(first: Tensor, second: Tensor, noise: float | None) -> bool:
    """Whether logits ``(R, N, K)`` differ by more than rounding."""
    return bool(((first - second).abs() > 2 * rounding(first, noise).unsqueeze(-1)).any())


def copy_of(model: nn.Module) -> nn.Module | None:
    """A copy of a model with all of its state; ``None`` where it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - what a model holds and cannot be copied is its own matter
        return None


@contextmanager
def _asked(measured: MeasuredModel, keys: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """A model at the draws of one seed that belong to rows with these keys."""
    seed = seed_from("checks")
    # A deterministic model is seeded too: what it draws changes nothing, or is measured to.
    seed_generators(seed)
    with measured.seeded(keys, seed) as model:
        yield model


def _logits(measured: MeasuredModel, rows: Tensor) -> Tensor:
    """``(N, K)``, at the draws of one seed."""
    keys = row_keys(torch.arange(len(rows), device=rows.device))

    def compute() -> Tensor:
        logits = []
        for part in measured.size.slices(len(rows)):
            with _asked(measured, keys[part]) as model:
                logits.append(model(rows[part]))
        return torch.cat(logits)

    with torch.no_grad(), full_float32(rows.device), preserve_generators():
        return measured.size.retry_smaller(len(rows), compute)


def _slopes(measured: MeasuredModel, rows: Tensor, leading: Tensor) -> Tensor | None:
    """The gradients ``(N, C, H, W)`` of the gaps between two classes each; ``None`` where the model has none."""
    keys = row_keys(torch.arange(len(rows), device=rows.device))

    def compute() -> Tensor | None:
        slopes = []
        for part in measured.size.slices(len(rows)):
            leaf = rows[part].clone().requires_grad_()
            with _asked(measured, keys[part]) as model:
                gaps = _gaps(model(leaf), leading[part])
                if not gaps.requires_grad:
                    return None
                gaps.sum().backward()
            assert leaf.grad is not None
            slopes.append(leaf.grad.nan_to_num(0, 0, 0))
        return torch.cat(slopes)

    with torch.enable_grad(), full_float32(rows.device), preserve_generators():
        return measured.size.retry_smaller(len(rows), compute)


def _gaps(logits: Tensor, leading: Tensor) -> Tensor:
    """``(N,)`` logits of the class ``leading[:, 0]`` less those of ``leading[:, 1]``."""
    chosen = logits.gather(1, leading)
    return chosen[:, 0] - chosen[:, 1]

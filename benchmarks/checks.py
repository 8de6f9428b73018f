"""Checks that can speak against a row: each asks the model or the attack whether the figure can be believed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.bpda import Approximated, approximated
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.model import with_layers
from robustbench_cli.attacks.base.random import Random, seed_draws, seed_from
from robustbench_cli.defenses.base.randomized import Decision

__all__ = ["FLAGS", "gradient_is_wrong", "is_repeatable", "is_unstable"]

FLAGS = {
    "no-eot": "the attack followed one draw at a time although the defense is randomized: use --eot 10 or --eot exact",
    "zero-gradient": "some gradients were zero in every pixel: the attack could not see the way",
    "wrong-gradient": "the model's gradient is not the slope of its logits, nor of what it says to stand for them: an attack "
    "that follows it goes astray",
    "not-repeatable": "the model draws random numbers that torch's seed does not rule: its figures cannot be computed again",
    "unstable": "asked a second time, or among other images, a model that draws nothing said something else of an image",
    "every-draw": "the attack looks for what fools every draw, and gives nothing where that is not to be had: a fixed-radius "
    "attack beside it may leave less",
    "single-draw": "not the expected accuracy: an image counts as fallen once one draw misclassifies it, the clean image's "
    "draw among them, as AutoAttack counts",
    "few-classes": "with so few classes the attack has fewer targets than it asks for, or the margin in the place of a ratio "
    "of more logits",
    "left-the-ball": "the attack returned images outside the threat model; they were projected back",
}
"""The names of all checks, and what each means."""

_STEPS = (0.002, 0.01)
_DIRECTIONS = 4
_DRAWS = 8


def is_repeatable(model: nn.Module, images: Tensor) -> bool:
    """Whether two passes with the same seed give the same logits, by more than rounding.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1].
    """
    first, second = _seeded_logits(model, images), _seeded_logits(model, images)
    return not bool(((first - second).abs() > rounding(first).unsqueeze(-1)).any())


def gradient_is_wrong(model: nn.Module, images: Tensor, *, randomized: bool) -> bool:
    """Whether a model's gradient differs from the central differences of what it computes without one.

    Every image is moved along random signs by 0.002 and by 0.01 a pixel; asked is the gap between the two classes that
    lead. Over all images and directions, differences and the gradient's predictions have to have a correlation of at
    least 0.6 and the same size within a factor of 2.5, at one of the two lengths at least. Fashion-MNIST networks,
    plainly and noisily trained, have 0.9 to 1 and 0.87 to 1.07 at 0.01; a network behind a quantizer with a small
    straight way around it, or with its gradient turned around, at most 0.5 and at least 10, or -0.96.

    A layer that passes gradients back as its surrogate does (:class:`~robustbench_cli.attacks.base.bpda.Approximated`)
    has no slope to compare with. Such a model is measured with the surrogates in the layers' places; and each layer and
    its surrogate have to change alike, by the same measures, as what they are given grows from zero to what images make
    of it. A vote, too, is measured as the mean softmax whose gradient it has.

    Of a randomized model both are means over two halves of draws. One draw may jump where the mean does not: which
    activations are pruned depends on the image. A product of one half with the other has no part of that noise in its
    mean, so sizes are taken from such products.

    Args:
        model: In ``eval()`` mode, :func:`repeatable <is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].
        randomized: Whether the model draws random numbers.

    Returns:
        ``False`` also where nothing changes that could be told from noise, and where the gradient is zero too, which is
        another check's matter.
    """
    if _a_surrogate_is_another(model, images):
        return True
    with approximated(model), with_layers(model, Decision, approximating=True):
        return _gradient_disagrees(model, images, randomized=randomized)


def _a_surrogate_is_another(model: nn.Module, images: Tensor) -> bool:
    """Whether any layer's surrogate changes otherwise than the layer from a zero input to what images make of it."""
    layers = [module for module in model.modules() if isinstance(module, Approximated)]
    if not layers:
        return False
    given: list[tuple[Approximated, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: given.append((layer, inputs[0]))) for layer in layers
    ]
    try:
        _seeded_logits(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        return any(_disagree(*_changes(layer, inputs)) for layer, inputs in given)


def _changes(layer: Approximated, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """How a layer's and its surrogate's results ``(1, n)`` differ from those at zero."""
    nothing = torch.zeros_like(inputs)
    exact, surrogate = (
        (compute(inputs) - compute(nothing)).double().view(1, -1) for compute in (layer.exact, layer.surrogate)
    )
    return exact, surrogate


def _gradient_disagrees(model: nn.Module, images: Tensor, *, randomized: bool) -> bool:
    halves, draws, directions = (2, _DRAWS, 1) if randomized else (1, 1, _DIRECTIONS)
    moved = images.repeat(directions, 1, 1, 1)
    rows = moved.repeat(halves * draws, 1, 1, 1)
    mean_logits = _seeded_logits(model, rows).unflatten(0, (-1, len(images))).mean(0)
    leading = mean_logits.topk(2).indices.repeat(len(rows) // len(images), 1)
    with torch.enable_grad():
        leaf = rows.clone().requires_grad_()
        gaps = _gaps(model, leaf, leading)
        if not gaps.requires_grad:
            return False
        gradient = torch.autograd.grad(gaps.sum(), leaf)[0].nan_to_num(0, 0, 0)
    random = Random.of(0, moved)

    def disagree(step: float) -> bool:
        signs = (2 * random.integers(2, images.shape[1:]).to(rows) - 1).repeat(halves * draws, 1, 1, 1)
        above, below = (rows + step * signs).clamp(0, 1), (rows - step * signs).clamp(0, 1)
        with torch.no_grad():
            differences = (_gaps(model, above, leading) - _gaps(model, below, leading)).double()
        predicted = (gradient * (above - below)).flatten(1).double().sum(1)
        return _disagree(*(each.view(halves, draws, -1).mean(1) for each in (differences, predicted)))

    return all(disagree(step) for step in _STEPS)


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


def is_unstable(model: nn.Module, images: Tensor, predictions: Tensor) -> bool:
    """Whether a deterministic model takes back its predictions, or what it says of an image depends on the others.

    The images come again in the opposite order, all together and then every other one.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1].
        predictions: ``(N,)``, what it said before.
    """
    again = images.flip(0)
    with torch.no_grad():
        logits = model(again)
        among_fewer = model(again[::2])
    tolerance = 2 * rounding(logits)
    leading = logits.topk(2).values
    decided = leading[:, 0] - leading[:, 1] > tolerance
    taken_back = decided & (logits.argmax(1) != predictions.flip(0))
    depends = (among_fewer - logits[::2]).abs() > tolerance[::2, None]
    return bool(taken_back.any() | depends.any())


def _seeded_logits(model: nn.Module, images: Tensor) -> Tensor:
    seed_draws(seed_from("checks"))
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _gaps(model: nn.Module, images: Tensor, leading: Tensor) -> Tensor:
    """``(N,)`` logits of the class ``leading[:, 0]`` less those of ``leading[:, 1]``, at the draws of one seed."""
    seed_draws(seed_from("checks"))
    chosen: Tensor = model(images).gather(1, leading)
    return chosen[:, 0] - chosen[:, 1]

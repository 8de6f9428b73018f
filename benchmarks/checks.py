"""Checks that can speak against a row: each asks the model or the attack whether the figure can be believed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.random import Random, seed_from

__all__ = ["FLAGS", "gradient_is_wrong", "is_repeatable", "is_unstable"]

FLAGS = {
    "no-eot": "the attack followed one draw at a time although the defense is randomized: use --eot 10 or --eot exact",
    "zero-gradient": "some gradients were zero in every pixel: the attack could not see the way",
    "wrong-gradient": "the model's gradient is not the slope of its logits: an attack that follows it goes astray",
    "not-repeatable": "the model draws random numbers that torch's seed does not rule: its figures cannot be computed again",
    "unstable": "asked a second time, in the opposite order, a model that draws nothing classified some images otherwise",
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


def is_repeatable(model: nn.Module, images: Tensor) -> bool:
    """Whether two passes with the same seed give the same logits, by more than rounding.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1].
    """
    first, second = _seeded_logits(model, images), _seeded_logits(model, images)
    return not bool(((first - second).abs() > rounding(first).unsqueeze(-1)).any())


def gradient_is_wrong(model: nn.Module, images: Tensor) -> bool:
    """Whether a model's gradient differs from the central differences of what it computes without one.

    Every image is moved along random signs by 0.002 and by 0.01 a pixel; asked is the gap between the two classes that
    lead at the image, at the same draws of a randomized model. Over all images and directions, differences and the
    gradient's predictions have to have a correlation of at least 0.6 and the same size within a factor of 2.5, at one of
    the two lengths at least. Fashion-MNIST networks, plainly and noisily trained, have 0.9 to 1 and 0.87 to 1.07 at 0.01; a
    network behind a quantizer with a small straight way around it, or with its gradient turned around, at most 0.5 and
    at least 10, or -0.96.

    Args:
        model: In ``eval()`` mode, :func:`repeatable <is_repeatable>`.
        images: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``False`` also where nothing changes and the gradient is zero, which is another check's matter.
    """
    rows = images.repeat(_DIRECTIONS, 1, 1, 1)
    leading = _seeded_logits(model, rows).topk(2).indices
    random = Random.of(0, rows)
    with torch.enable_grad():
        leaf = rows.clone().requires_grad_()
        gaps = _gaps(model, leaf, leading)
        if not gaps.requires_grad:
            return False
        gradient = torch.autograd.grad(gaps.sum(), leaf)[0].nan_to_num(0, 0, 0)
    return all(_disagree(model, rows, gradient, leading, step, random) for step in _STEPS)


def _disagree(model: nn.Module, rows: Tensor, gradient: Tensor, leading: Tensor, step: float, random: Random) -> bool:
    signs = 2 * random.integers(2, rows.shape[1:]).to(rows) - 1
    above, below = (rows + step * signs).clamp(0, 1), (rows - step * signs).clamp(0, 1)
    with torch.no_grad():
        differences = (_gaps(model, above, leading) - _gaps(model, below, leading)).double()
    predicted = (gradient * (above - below)).flatten(1).double().sum(1)
    # What an attack could not tell from rounding is no disagreement.
    largest = torch.maximum(differences.abs().max(), predicted.abs().max())
    if not bool(largest.isfinite()) or bool(largest == 0):
        return False
    differences, predicted = differences / largest, predicted / largest
    size, other = differences.norm(), predicted.norm()
    return bool((differences @ predicted < 0.6 * size * other) | (size > 2.5 * other) | (other > 2.5 * size))


def is_unstable(model: nn.Module, images: Tensor, predictions: Tensor) -> bool:
    """Whether a deterministic model takes back its predictions when the images come again, in the opposite order.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1].
        predictions: ``(N,)``, what it said before.
    """
    with torch.no_grad():
        logits = model(images.flip(0)).flip(0)
    leading = logits.topk(2).values
    decided = leading[:, 0] - leading[:, 1] > 2 * rounding(logits)
    return bool((decided & (logits.argmax(1) != predictions)).any())


def _seeded_logits(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(seed_from("checks"))
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _gaps(model: nn.Module, images: Tensor, leading: Tensor) -> Tensor:
    """``(N,)`` logits of the class ``leading[:, 0]`` less those of ``leading[:, 1]``, at the draws of one seed."""
    torch.manual_seed(seed_from("checks"))
    chosen: Tensor = model(images).gather(1, leading)
    return chosen[:, 0] - chosen[:, 1]

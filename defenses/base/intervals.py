"""Interval arithmetic through a network: what its logits are at most, and at least, over a box of images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.errors import UserError

__all__ = ["monotone", "require_bounded", "worst_logits"]

_MONOTONE = (
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d),
)
"""Layers of which no output falls where an input rises: the bounds of the inputs give those of the outputs."""


def monotone(layer: nn.Module) -> bool:
    """Whether no output of a layer falls where an input rises; one of another floor says so by ``monotone = True``."""
    return isinstance(layer, _MONOTONE) or getattr(layer, "monotone", False) is True


def require_bounded(model: nn.Module) -> None:
    """Makes sure that intervals can be followed through a model.

    Raises:
        UserError: It is not one layer after the other, or one of them is of another kind; told is which.
    """
    for _ in _layers(model, ""):
        pass


def _layers(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The layers of a sequential network, in order."""
    # What derives from Sequential and goes another way is no sequence.
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        for key, child in model.named_children():
            yield from _layers(child, f"{name}.{key}" if name else key)
    elif isinstance(model, nn.Linear | nn.Conv2d | nn.BatchNorm2d) or monotone(model):
        yield model
    else:
        where = f"its layer {name}" if name else "it"
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {where} is a {type(model).__name__}; what can be is a "
            "sequence of fully connected layers, convolutions, batch norm, ReLU, pooling and flattening, such as small-cnn"
        )


def worst_logits(model: nn.Module, images: Tensor, labels: Tensor, eps: float | Tensor) -> Tensor:
    """How far each class may come ahead of the label over all images within a radius in linf, at most.

    Interval bound propagation (Gowal et al., 2018, arXiv 1810.12715): bounds of each layer's outputs follow from those
    of its inputs, of an affine layer by their centres and half widths. The last layer is not bounded by itself but
    together with the difference between two logits, which is tighter (the paper's elision of the last layer). Dropout
    drops nothing here, and batch norm takes its running statistics, in training too.

    Args:
        model: A sequential network; see :func:`require_bounded`.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        eps: The radius, one for all or ``(N,)``; the ball is cut with the box [0, 1].

    Returns:
        ``(N, K)``, differentiable: the upper bound of ``Z_j - Z_y``, with 0 at the label. Where all others are below 0
        no image of the ball is taken for another class.

    Raises:
        UserError: Intervals cannot be followed through the model.
    """
    layers = list(_layers(model, ""))
    last = layers[-1]
    if not isinstance(last, nn.Linear):
        raise UserError(
            f"the model's logits cannot be bounded by intervals: its last layer is a {type(last).__name__}, and it has to "
            "be fully connected"
        )
    radius = eps.view(-1, *[1] * (images.dim() - 1)).to(images) if isinstance(eps, Tensor) else eps
    low, high = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    for layer in layers[:-1]:
        low, high = _through(layer, low, high)
    centre, half = (high + low) / 2, (high - low) / 2
    # Row j of an image: what turns its features into Z_j - Z_y.
    differences = last.weight - last.weight[labels].unsqueeze(1)
    upper = (differences @ centre.unsqueeze(2) + differences.abs() @ half.unsqueeze(2)).squeeze(2)
    return upper if last.bias is None else upper + last.bias - last.bias[labels].unsqueeze(1)


def _through(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of a layer's outputs from those of its inputs."""
    if isinstance(layer, nn.Linear):
        centre, half = layer((high + low) / 2), functional.linear((high - low) / 2, layer.weight.abs())
        return centre - half, centre + half
    if isinstance(layer, nn.Conv2d):
        centre = layer((high + low) / 2)
        half = layer._conv_forward((high - low) / 2, layer.weight.abs(), None)  # noqa: SLF001 - its padding is its own matter
        return centre - half, centre + half
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale = (layer.running_var + layer.eps).rsqrt()
        shift = -layer.running_mean * scale
        if layer.affine:
            scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
        scale, shift = scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
        centre, half = (high + low) / 2 * scale + shift, (high - low) / 2 * scale.abs()
        return centre - half, centre + half
    if isinstance(layer, nn.Dropout | nn.Dropout2d):
        return low, high
    both: Tensor = layer(torch.cat([low, high]))
    low, high = both.chunk(2)
    return low, high

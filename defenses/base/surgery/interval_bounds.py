"""Interval arithmetic through a network: what its logits are at most, and at least, over a box of images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError

__all__ = ["is_monotone", "require_boundable", "worst_logits"]

_MONOTONE = (
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d),
)
"""Layers of which no output falls where an input rises: the bounds of the inputs give those of the outputs."""


def is_monotone(layer: nn.Module) -> bool:
    """Whether no output of a layer falls where an input rises; one of another floor says so by ``monotone = True``."""
    if isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0:
        return False
    return _is_any(layer, _MONOTONE) or getattr(layer, "monotone", False) is True


def _is_affine(layer: nn.Module) -> bool:
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
        return False
    return _is_any(layer, (nn.Linear, nn.Conv2d, nn.BatchNorm2d))


def _is_any(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a layer is of one of several kinds; what is derived from one and computes something else is not."""
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds)


def require_boundable(model: nn.Module) -> None:
    """Makes sure that intervals can be followed through a model.

    Raises:
        UserError: It is not one layer after the other, or one of them is of another kind; told is which.
    """
    _bounded_layers(model)


def _bounded_layers(model: nn.Module) -> list[nn.Module]:
    """All layers of a network that intervals can be followed through; see :func:`require_boundable`."""
    layers = list(_layers(model, ""))
    if not layers or not _is_any(layers[-1], (nn.Linear,)):
        last = f"its last layer is a {type(layers[-1]).__name__}" if layers else "it has no layer"
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {last}, and the last has to be fully connected"
        )
    return layers


def _layers(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The layers of a sequential network, in order."""
    if model._forward_pre_hooks or model._forward_hooks:  # noqa: SLF001
        # As torch's weight_norm and spectral_norm of old are, whose weights are made when the layer is called.
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {f'its layer {name}' if name else 'it'} has hooks, which "
            "may change what it gives; torch.nn.utils.parametrizations need none"
        )
    if _is_any(model, (nn.Sequential,)):
        # A layer that stands in several places comes once among the named children.
        for key, child in model._modules.items():  # noqa: SLF001
            assert child is not None
            yield from _layers(child, f"{name}.{key}" if name else key)
    elif _is_affine(model) or is_monotone(model):
        yield model
    else:
        where = f"its layer {name}" if name else "it"
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {where} is a {type(model).__name__}; what can be is a "
            "sequence of fully connected layers, convolutions, batch norm with running statistics, ReLU, pooling and "
            "flattening, such as small-cnn"
        )


def worst_logits(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float | Tensor, *, unit_roundoff: float = 0.0
) -> Tensor:
    """How far each class may come ahead of the label over all images within a radius in linf, at most.

    Interval bound propagation (Gowal et al., 2018, arXiv 1810.12715): bounds of each layer's outputs follow from those
    of its inputs, of an affine layer by their centres and half widths. The last layer is not bounded by itself but
    together with the difference between two logits, which is tighter (the paper's elision of the last layer). Dropout
    drops nothing here, and batch norm takes its running statistics, in training too.

    Args:
        model: A sequential network; see :func:`require_boundable`.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        eps: The radius, one for all or ``(N,)``; the ball is cut with the box [0, 1].
        unit_roundoff: The relative error at most of one operation of the model; with it the bounds are not those of exact
            sums but of what the model computes, in whichever order (a sum of n products is off by no more than about n
            such errors of the sum of their sizes: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).

    Returns:
        ``(N, K)``, differentiable: the upper bound of ``Z_j - Z_y``, with 0 at the label. Where all others are below 0
        no image of the ball is taken for another class.

    Raises:
        UserError: Intervals cannot be followed through the model.
    """
    layers = _bounded_layers(model)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    radius = eps.view(-1, *[1] * (images.dim() - 1)).to(images) if isinstance(eps, Tensor) else eps
    low, high = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    for layer in layers[:-1]:
        low, high = _through(layer, low, high, unit_roundoff)
    centre, half = (high + low) / 2, (high - low) / 2
    # Row j of an image: what turns its features into Z_j - Z_y.
    differences = last.weight - last.weight[labels].unsqueeze(1)
    upper = (differences @ centre.unsqueeze(2) + differences.abs() @ half.unsqueeze(2)).squeeze(2)
    if last.bias is not None:
        upper = upper + last.bias - last.bias[labels].unsqueeze(1)
    if not unit_roundoff:
        return upper
    error = _of_sums(last, unit_roundoff)
    errors = functional.linear(error * _size(low, high), last.weight.abs(), _scaled(last.bias, error))
    index = labels.unsqueeze(1)
    return (upper + errors + errors.gather(1, index)).scatter(1, index, 0.0)


def _through(layer: nn.Module, low: Tensor, high: Tensor, unit_roundoff: float) -> tuple[Tensor, Tensor]:
    """The bounds of a layer's outputs from those of its inputs; see :func:`worst_logits`."""
    if isinstance(layer, nn.Dropout | nn.Dropout2d):
        return low, high
    if not _is_affine(layer):
        both: Tensor = layer(torch.cat([low, high]))
        lowest, highest = both.chunk(2)
        if not unit_roundoff:
            return lowest, highest
        errors = 4 * unit_roundoff * _size(lowest, highest)
        if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            errors = errors + unit_roundoff * low[0, 0].numel() * layer(_size(low, high))
        return lowest - errors, highest + errors
    centre, half = (high + low) / 2, (high - low) / 2
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale = (layer.running_var + layer.eps).rsqrt()
        shift, bias = -layer.running_mean * scale, torch.zeros_like(scale)
        if layer.affine:
            scale, shift, bias = scale * layer.weight, shift * layer.weight, layer.bias
        scale, shift, bias = (each.view(1, -1, 1, 1) for each in (scale, shift, bias))
        centre, half = centre * scale + shift + bias, half * scale.abs()
        if unit_roundoff:
            half = half + 8 * unit_roundoff * (_size(low, high) * scale.abs() + shift.abs() + bias.abs())
        return centre - half, centre + half
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    centre, errors_of_bias = layer(centre), None
    if unit_roundoff:
        error = _of_sums(layer, unit_roundoff)
        half, errors_of_bias = half + error * _size(low, high), _scaled(layer.bias, error)
    if isinstance(layer, nn.Linear):
        half = functional.linear(half, layer.weight.abs(), errors_of_bias)
    else:
        half = layer._conv_forward(half, layer.weight.abs(), errors_of_bias)  # noqa: SLF001 - its padding is its own matter
    return centre - half, centre + half


def _size(low: Tensor, high: Tensor) -> Tensor:
    """How large a number between bounds is at most."""
    return torch.maximum(low.abs(), high.abs())


def _of_sums(layer: nn.Linear | nn.Conv2d, unit_roundoff: float) -> float:
    """The relative error of a layer's sums, of products and a bias."""
    return unit_roundoff * (layer.weight[0].numel() + 2)


def _scaled(bias: Tensor | None, error: float) -> Tensor | None:
    return None if bias is None else error * bias.abs()

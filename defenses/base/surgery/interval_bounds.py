"""Interval bound propagation: bounds of a network's logits over a box of images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError

__all__ = [
    "is_boundable",
    "is_monotone",
    "magnitude",
    "propagate",
    "require_boundable",
    "rounding_errors",
    "worst_logits",
]

_MONOTONE = (
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d),
)
"""Monotone layers: applied to the bounds of the inputs, they give the bounds of the outputs."""


def is_monotone(layer: nn.Module) -> bool:
    """Whether each output of a layer is non-decreasing in each input.

    A layer from another package declares this by ``monotone = True``.
    """
    if isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0:
        return False
    return _is_any(layer, _MONOTONE) or getattr(layer, "monotone", False) is True


def _is_affine(layer: nn.Module) -> bool:
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
        return False
    return _is_any(layer, (nn.Linear, nn.Conv2d, nn.BatchNorm2d))


def _is_any(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a layer has one of several types. A subclass with another ``forward`` does not count."""
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds)


def require_boundable(model: nn.Module) -> None:
    """Checks that interval bounds can be propagated through a model.

    Raises:
        UserError: The model is not sequential, its last layer is not fully connected, or a layer is neither affine nor
            monotone.
    """
    _bounded_layers(model)


def is_boundable(model: nn.Module) -> bool:
    """Whether a model passes :func:`require_boundable`."""
    try:
        _bounded_layers(model)
    except UserError:
        return False
    return True


def _bounded_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a network that passes :func:`require_boundable`, in order."""
    layers = list(_layers(model, ""))
    if not layers or not _is_any(layers[-1], (nn.Linear,)):
        last = f"its last layer is a {type(layers[-1]).__name__}" if layers else "it has no layer"
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {last}, and the last layer must be fully connected"
        )
    return layers


def _layers(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The layers of a sequential network, in order. ``name`` is that of ``model`` in the whole network."""
    if model._forward_pre_hooks or model._forward_hooks:  # noqa: SLF001
        # torch's old weight_norm and spectral_norm are hooks: they compute the weights when the layer is called.
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {f'its layer {name}' if name else 'it'} has hooks, which "
            "may change its output; torch.nn.utils.parametrizations need no hooks"
        )
    if _is_any(model, (nn.Sequential,)):
        # Not named_children(), which lists a layer once even if it is used several times.
        for key, child in model._modules.items():  # noqa: SLF001
            assert child is not None
            yield from _layers(child, f"{name}.{key}" if name else key)
    elif _is_affine(model) or is_monotone(model):
        yield model
    else:
        layer = f"its layer {name}" if name else "it"
        raise UserError(
            f"the model's logits cannot be bounded by intervals: {layer} is a {type(model).__name__}; give a "
            "sequence of fully connected layers, convolutions, batch norm with running statistics, ReLU, pooling and "
            "flattening, such as small-cnn"
        )


def worst_logits(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float | Tensor, *, unit_roundoff: float = 0.0
) -> Tensor:
    """Upper bounds of the logit differences to the label, over all images within a radius in linf.

    Interval bound propagation (Gowal et al., 2018, arXiv 1810.12715, section 3): the bounds of a layer's outputs follow
    from those of its inputs. An affine layer maps centers and half-widths. The last layer is merged with the
    logit differences, which gives tighter bounds (the paper's elision of the last layer). Dropout is off, and batch norm
    uses its running statistics, in ``train()`` mode too.

    Args:
        model: A sequential network; see :func:`require_boundable`.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        eps: The radius, one number or ``(N,)``. The ball is clipped to the box [0, 1].
        unit_roundoff: The largest relative rounding error of one operation of the model. 0: the bounds hold for exact
            arithmetic. Otherwise they hold for the values that the model computes, in any order of summation: the error
            of a sum of n products is at most about n roundoffs times the sum of their magnitudes (Higham, Accuracy and
            Stability of Numerical Algorithms, section 3.1).

    Returns:
        ``(N, K)``, differentiable: the upper bound of ``Z_j - Z_y``, and 0 at the label. If all other entries of a row are
        negative, the model is certified for that image.

    Raises:
        UserError: Interval bounds cannot be propagated through the model.
    """
    layers = _bounded_layers(model)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    radius = eps.view(-1, *[1] * (images.dim() - 1)).to(images) if isinstance(eps, Tensor) else eps
    low, high = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    for layer in layers[:-1]:
        low, high = propagate(layer, low, high, unit_roundoff)
    center, half_width = (high + low) / 2, (high - low) / 2
    # (N, K, features): row j maps the features to Z_j - Z_y.
    differences = last.weight - last.weight[labels].unsqueeze(1)
    upper = (differences @ center.unsqueeze(2) + differences.abs() @ half_width.unsqueeze(2)).squeeze(2)
    if last.bias is not None:
        upper = upper + last.bias - last.bias[labels].unsqueeze(1)
    if not unit_roundoff:
        return upper
    errors = rounding_errors(last, low, high, unit_roundoff)
    index = labels.unsqueeze(1)
    return (upper + errors + errors.gather(1, index)).scatter(1, index, 0.0)


def propagate(layer: nn.Module, low: Tensor, high: Tensor, unit_roundoff: float) -> tuple[Tensor, Tensor]:
    """The bounds of a layer's outputs from those of its inputs; see :func:`worst_logits`.

    Args:
        layer: A layer of a network that passes :func:`require_boundable`.
        low: ``(N, ...)``, lower bounds of its inputs.
        high: ``(N, ...)``, upper bounds of its inputs.
        unit_roundoff: See :func:`worst_logits`.

    Returns:
        The lower and the upper bounds of its outputs.
    """
    if isinstance(layer, nn.Dropout | nn.Dropout2d):
        return low, high
    if not _is_affine(layer):
        return _propagate_monotone(layer, low, high, unit_roundoff)
    if isinstance(layer, nn.BatchNorm2d):
        return _propagate_batch_norm(layer, low, high, unit_roundoff)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return _propagate_affine(layer, low, high, unit_roundoff)


def _propagate_monotone(layer: nn.Module, low: Tensor, high: Tensor, unit_roundoff: float) -> tuple[Tensor, Tensor]:
    both: Tensor = layer(torch.cat([low, high]))
    lowest, highest = both.chunk(2)
    if not unit_roundoff:
        return lowest, highest
    errors = 4 * unit_roundoff * magnitude(lowest, highest)
    if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        errors = errors + unit_roundoff * low[0, 0].numel() * layer(magnitude(low, high))
    return lowest - errors, highest + errors


def _propagate_batch_norm(
    layer: nn.BatchNorm2d, low: Tensor, high: Tensor, unit_roundoff: float
) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    center, half_width = (high + low) / 2, (high - low) / 2
    scale = (layer.running_var + layer.eps).rsqrt()
    shift, bias = -layer.running_mean * scale, torch.zeros_like(scale)
    if layer.affine:
        scale, shift, bias = scale * layer.weight, shift * layer.weight, layer.bias
    scale, shift, bias = (vector.view(1, -1, 1, 1) for vector in (scale, shift, bias))
    center, half_width = center * scale + shift + bias, half_width * scale.abs()
    if unit_roundoff:
        magnitudes = magnitude(low, high) * scale.abs() + shift.abs() + bias.abs()
        half_width = half_width + 8 * unit_roundoff * magnitudes
    return center - half_width, center + half_width


def _propagate_affine(
    layer: nn.Linear | nn.Conv2d, low: Tensor, high: Tensor, unit_roundoff: float
) -> tuple[Tensor, Tensor]:
    center, half_width = (high + low) / 2, (high - low) / 2
    center, bias_error = layer(center), None
    if unit_roundoff:
        relative = _sum_error(layer, unit_roundoff)
        half_width, bias_error = half_width + relative * magnitude(low, high), _scaled_abs(layer.bias, relative)
    half_width = _apply_abs(layer, half_width, bias_error)
    return center - half_width, center + half_width


def _apply_abs(layer: nn.Linear | nn.Conv2d, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """A layer with the absolute values of its weights, and another bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear(inputs, layer.weight.abs(), bias)
    # It handles the padding mode.
    outputs: Tensor = layer._conv_forward(inputs, layer.weight.abs(), bias)  # noqa: SLF001
    return outputs


def rounding_errors(layer: nn.Linear | nn.Conv2d, low: Tensor, high: Tensor, unit_roundoff: float) -> Tensor:
    """Bounds of the rounding errors of an affine layer's outputs; :func:`propagate` includes them.

    Args:
        layer: The layer.
        low: ``(N, ...)``, lower bounds of its inputs.
        high: ``(N, ...)``, upper bounds of its inputs.
        unit_roundoff: See :func:`worst_logits`.

    Returns:
        A bound for each output, of the shape of the outputs.
    """
    relative = _sum_error(layer, unit_roundoff)
    return _apply_abs(layer, relative * magnitude(low, high), _scaled_abs(layer.bias, relative))


def magnitude(low: Tensor, high: Tensor) -> Tensor:
    """The largest absolute value between the bounds."""
    return torch.maximum(low.abs(), high.abs())


def _sum_error(layer: nn.Linear | nn.Conv2d, unit_roundoff: float) -> float:
    """The relative rounding error of a layer's sums of products and a bias."""
    return unit_roundoff * (layer.weight[0].numel() + 2)


def _scaled_abs(bias: Tensor | None, factor: float) -> Tensor | None:
    return None if bias is None else factor * bias.abs()

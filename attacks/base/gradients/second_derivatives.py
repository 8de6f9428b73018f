"""Second derivatives of a model: passes that have them, and the error of a layer that has none."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.passes import NoGradientError, single_pass
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line

__all__ = ["require_second_derivative", "twice_differentiable"]


def twice_differentiable() -> AbstractContextManager[None]:
    """Makes forward passes within the context differentiable twice.

    PyTorch's fused attention has no second derivative. Within the context, attention takes one operation after another.
    """
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def require_second_derivative(model: nn.Module, images: Tensor) -> None:
    """Checks that a model can be differentiated twice, before something relies on it.

    ``torch.autograd.grad`` alone does not tell: it takes the backward pass of a custom function that is marked
    ``once_differentiable`` for a constant.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged.
        images: ``(N, C, H, W)``. One image is enough.

    Raises:
        NoGradientError: The logits do not depend differentiably on the images.
        UserError: A layer has no second derivative.
    """
    leaf = images.detach().clone().requires_grad_()
    with frozen(model), preserve_generators(), twice_differentiable(), torch.enable_grad():
        logits = single_pass(model, leaf)
        if not logits.requires_grad:
            raise NoGradientError
        error = _obstacle(logits, leaf)
        layer = "" if error is None else _layer_without(model, images)
    if error is not None:
        raise UserError(
            f"{layer} has no second derivative ({one_line(error)}): write it in operations that have one, or choose a method "
            "that needs none"
        ) from error


def _obstacle(result: Tensor, leaf: Tensor) -> RuntimeError | None:
    """The error of differentiating a result twice at a leaf; ``None`` if there is none."""
    try:
        # With the square, the second derivative goes through every layer, also where all of them are linear.
        (gradient,) = torch.autograd.grad(result.square().sum(), leaf, create_graph=True)
        if gradient.requires_grad:
            # This raises the error of a function that is differentiable once. autograd.grad would not.
            gradient.square().sum().backward()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return error
    return None


def _layer_without(model: nn.Module, images: Tensor) -> str:
    """The innermost layer that has no second derivative, for a message."""
    calls: list[tuple[str, nn.Module, Any]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], _: object) -> None:
        calls.append((name, module, inputs[0] if len(inputs) == 1 else None))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        single_pass(model, images)
    # A layer is noted before the layer that contains it.
    for name, module, values in calls:
        if name and isinstance(values, Tensor) and values.is_floating_point():
            leaf = values.detach().clone().requires_grad_()
            result = module(leaf.clone())
            if isinstance(result, Tensor) and result.requires_grad and _obstacle(result, leaf) is not None:
                return f"layer '{name}' ({type(module).__name__})"
    return "the model"

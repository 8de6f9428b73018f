"""Changes the output of every activation function of a model, whether it is a module or a function call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["AfterActivations"]

# An activation module calls the function of its name. A model's own code may call any of the others.
_ACTIVATIONS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.relu,
        torch.relu,
        Tensor.relu,
        functional.relu_,
        torch.relu_,
        Tensor.relu_,
        functional.leaky_relu,
        functional.prelu,
        torch.prelu,
        functional.elu,
        functional.selu,
        torch.selu,
        functional.celu,
        torch.celu,
        functional.gelu,
        functional.silu,
        functional.mish,
        functional.hardtanh,
        functional.relu6,
        functional.hardswish,
        functional.softplus,
        functional.tanh,
        torch.tanh,
        Tensor.tanh,
    }
)


class AfterActivations(nn.Module):
    """A model with a change applied to all its activations.

    Activations are the outputs of torch's activation functions, except sigmoid and softmax, which make gates and
    attention weights. The calls are intercepted while the model runs, so its code does not matter.

    Args:
        model: The model. It is not copied.
        change: From activations ``(N, ...)`` to activations of the same shape.
    """

    def __init__(self, model: nn.Module, change: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        """The model's output with every activation changed."""
        with _After(self.change):
            output: Tensor = self.model(images)
        return output


class _After(TorchFunctionMode):
    """Applies ``change`` to every activation. Inside ``change`` the mode is off, so nothing is changed twice."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        return self.change(output) if func in _ACTIVATIONS else output

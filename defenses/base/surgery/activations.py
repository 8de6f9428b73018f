"""Changes what every activation function of a model gives, whether its code calls a module or a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["AfterActivations"]

# A module's forward calls the function of its name; the others are what a model's own code may call.
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
    """A model whose activations are changed before it goes on with them.

    An activation is the output of any of torch's activation functions but the sigmoid and the softmax, which make gates
    and weights. The model's code is not looked at: whatever it calls while it runs is seen.

    Args:
        model: Is held as it is.
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
    """Hands every activation to ``change``; inside it the mode is off, so that nothing is changed twice."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        return self.change(output) if func in _ACTIVATIONS else output

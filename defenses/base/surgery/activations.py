"""Changes or replaces the activation functions of a model, whether they are modules or function calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError

__all__ = ["AfterActivations", "ReplacedReLUs", "channels_of_relus"]

# An activation module calls the function of its name. A model's own code may call any of the others.
_RELUS_IN_PLACE: frozenset[Callable[..., Any]] = frozenset({functional.relu_, torch.relu_, Tensor.relu_})
_RELUS: frozenset[Callable[..., Any]] = _RELUS_IN_PLACE | {functional.relu, torch.relu, Tensor.relu}
_ACTIVATIONS: frozenset[Callable[..., Any]] = _RELUS | frozenset(
    {
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


class ReplacedReLUs(nn.Module):
    """A model in which every ReLU on feature maps ``(N, C, H, W)`` computes something else. The calls are intercepted.

    Args:
        model: The model. It is not copied.
        replacements: One for each of these calls, in the order of a forward pass; see :func:`channels_of_relus`.
    """

    def __init__(self, model: nn.Module, replacements: Iterable[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.replacements = nn.ModuleList(replacements)

    def forward(self, images: Tensor) -> Tensor:
        """The model's output with the replacements.

        Raises:
            UserError: The model calls ReLU more often than there are replacements.
        """
        with _Replacing(self.replacements):
            output: Tensor = self.model(images)
        return output


class _Replacing(TorchFunctionMode):
    """Calls the replacements in turn. Inside them the mode is off, so they may call ReLU themselves."""

    def __init__(self, replacements: Iterable[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.replacements = iter(replacements)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _RELUS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "inplace"), args, strict=False)) | (kwargs or {})
        features: Tensor = given["input"]
        if features.dim() != 4:
            return func(*args, **(kwargs or {}))
        replacement = next(self.replacements, None)
        if replacement is None:
            raise UserError("the model does not call ReLU equally often in every pass: its calls cannot be replaced")
        if func in _RELUS_IN_PLACE or given.get("inplace"):
            # The model may go on with the input, and not with what the call returns.
            return features.copy_(replacement(features.clone()))
        return replacement(features)


def channels_of_relus(model: nn.Module, example: Tensor) -> list[int]:
    """The number of channels of each feature map to which a model applies ReLU, in the order of a forward pass.

    Args:
        model: The model.
        example: Images ``(N, C, H, W)``; one is enough.
    """
    channels = []

    def record(features: Tensor) -> Tensor:
        channels.append(features.shape[1])
        return features.relu()

    with frozen(model), torch.no_grad(), _Replacing(repeat(record)):
        model(example)
    return channels

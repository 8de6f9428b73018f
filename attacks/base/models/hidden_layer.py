"""What a hidden layer of a network computes in a pass: its representations of the images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["HiddenLayer", "full_name", "last_linear"]


@dataclass(frozen=True)
class HiddenLayer:
    """A layer whose output, or first input, is a representation of the images.

    Attributes:
        name: The name of a module in the network, as in ``named_modules()``.
        before: Whether the representation is the layer's first input, and not its output.
    """

    name: str
    before: bool = False

    @contextmanager
    def captured(self, network: nn.Module) -> Iterator[list[object]]:
        """Collects what each run of the layer takes or gives, copied before a later layer can write into it.

        Args:
            network: Has the layer. Its passes inside the context are those whose values count.

        Yields:
            The list of the values so far.
        """
        values: list[object] = []

        def capture(value: object) -> None:
            values.append(value.clone() if isinstance(value, Tensor) else value)

        module = network.get_submodule(self.name)
        if self.before:
            handle = module.register_forward_pre_hook(lambda _, inputs: capture(inputs[0] if inputs else None))
        else:
            handle = module.register_forward_hook(lambda _, __, output: capture(output))
        try:
            yield values
        finally:
            handle.remove()

    @torch.no_grad()
    def width(self, network: nn.Module, examples: Tensor, *, parameter: str) -> int:
        """The number d of features of a representation.

        Args:
            network: Images ``(N, C, H, W)`` to logits.
            examples: ``(M, C, H, W)`` in [0, 1], M >= 3, because a leading dimension of 1 may have another meaning.
            parameter: The parameter that names the layer, for the message.

        Raises:
            UserError: The network has no such layer, does not run it, or the layer gives no floating-point tensor with a row
                per image.
        """
        modules = [module for module, _ in network.named_modules() if module]
        subject = f"{parameter} is '{self.name}'"
        if self.name not in modules:
            raise UserError(f"{subject}, no layer of the network: {did_you_mean(self.name, modules)}")
        with frozen(network), self.captured(network) as values:
            network(examples.clone())
        if not values:
            raise UserError(f"{subject}, which the forward pass does not run: give a layer that it runs")
        representation = values[-1]
        if not isinstance(representation, Tensor):
            raise UserError(
                f"{subject}, which gives a {type(representation).__name__}: give a layer whose output is one tensor"
            )
        if representation.dim() < 2 or len(representation) != len(examples):
            raise UserError(
                f"{subject}, which gives {tuple(representation.shape)} for {len(examples)} images: give a layer with a row per "
                "image"
            )
        if not representation.is_floating_point():
            raise UserError(
                f"{subject}, which gives {representation.dtype}: give a layer whose output has floating-point numbers"
            )
        return representation[0].numel()


def full_name(network: nn.Module, name: str) -> str:
    """The name of the only module whose name ends with this one, because a defense wraps its network; else this name.

    Args:
        network: Any module.
        name: The last parts of a module's name.

    >>> full_name(nn.ModuleDict({"model": nn.ModuleDict({"relu4": nn.ReLU()})}), "relu4")
    'model.relu4'
    """
    names = [module for module, _ in network.named_modules()]
    endings = [module for module in names if module.endswith(f".{name}")]
    return endings[0] if name not in names and len(endings) == 1 else name


def last_linear(network: nn.Module, example: Tensor) -> str | None:
    """The name of the linear layer that runs last, or ``None`` if none runs.

    Args:
        network: Images ``(N, C, H, W)`` to logits.
        example: One image ``(1, C, H, W)`` in [0, 1].

    >>> last_linear(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(1, 1, 2, 2))
    '3'
    """
    runs: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with frozen(network), torch.no_grad():
            network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return runs[-1] if runs else None

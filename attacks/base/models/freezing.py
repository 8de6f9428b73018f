"""Keeps a model fixed while it is attacked: no gradients of parameters, evaluation mode, the device and the memory layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.probes import _logger
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["frozen", "frozen_on", "move", "override_layers"]


@contextmanager
def override_layers(model: nn.Module, kind: type[nn.Module], **values: Any) -> Iterator[None]:
    """Within it, attributes of all layers of a kind in a model have other values; afterwards each has its own again.

    Args:
        model: Whose layers.
        kind: Which of them.
        **values: By the attribute's name.
    """
    layers = [module for module in model.modules() if isinstance(module, kind)]
    before = [(layer, name, getattr(layer, name)) for layer in layers for name in values]
    for layer, name, _ in before:
        setattr(layer, name, values[name])
    try:
        yield
    finally:
        for layer, name, own in before:
            setattr(layer, name, own)


def move(model: nn.Module, device: torch.device, images: Tensor) -> torch.memory_format:
    """Moves a model to a device, in place, with its weights channels last where it runs so: convolutions are fastest then.

    A model that reads its features by ``view`` may not run in that layout. It stays in its own, which is logged.

    Args:
        model: Whose parameters and buffers are moved.
        device: Where to.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, anywhere, that are tried; of one image alone not every layout shows.

    Returns:
        The layout in which the model runs.
    """
    model.to(device)
    tensors = _tensors(model)
    model.to(memory_format=torch.channels_last)
    try:
        with frozen(model), torch.enable_grad(), preserve_generators():
            # A copy, since a model may write into its input.
            rows = images.detach().to(device, copy=True, memory_format=torch.channels_last)
            model(rows.requires_grad_().clone())
    except RuntimeError as error:
        tensors.restore()
        if not is_out_of_memory(error):
            _logger.info("%s stays in its own memory layout: %s", type(model).__name__, one_line(error))
        return torch.contiguous_format
    return torch.channels_last


@contextmanager
def frozen_on(model: nn.Module, device: torch.device, images: Tensor) -> Iterator[torch.memory_format]:
    """Within it, a model is :func:`moved <move>` and :func:`frozen`; afterwards it is as it was, where it was.

    Yields:
        The layout in which the model runs.
    """
    tensors = _tensors(model)
    try:
        layout = move(model, device, images)
        with frozen(model):
            yield layout
    finally:
        tensors.restore()


@dataclass(frozen=True)
class _Tensors:
    """The data of a model's parameters and its buffers, as they lie in memory.

    Attributes:
        parameters: Each with its data.
        buffers: Each with the module that holds it and its name there.
    """

    parameters: list[tuple[nn.Parameter, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor | None]]

    def restore(self) -> None:
        """Gives them back to the model."""
        for parameter, data in self.parameters:
            parameter.data = data
        for module, name, buffer in self.buffers:
            module._buffers[name] = buffer  # noqa: SLF001 - the registered one, whatever attribute shadows it


def _tensors(model: nn.Module) -> _Tensors:
    return _Tensors(
        [(parameter, parameter.data) for parameter in model.parameters()],
        [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()],  # noqa: SLF001
    )


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Puts a model into ``eval()`` mode with parameters that need no gradient, and restores both afterwards."""
    modes = {module: module.training for module in model.modules()}
    needs = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, needed in needs.items():
            parameter.requires_grad_(needed)

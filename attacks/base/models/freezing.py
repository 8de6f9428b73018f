"""Freezes a model during an attack: evaluation mode, fixed parameters, its device and its memory layout."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.outside_state import own_outside_state
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line

__all__ = ["copy_of", "frozen", "frozen_on", "move", "override_layers"]

_logger = logging.getLogger(__name__)


def copy_of(model: nn.Module) -> nn.Module | None:
    """A copy of a model with all of its state; ``None`` where it cannot be copied.

    The passes of the copy read and change a copy of what the model's code keeps elsewhere, too; see
    :func:`~.outside_state.own_outside_state`.

    Args:
        model: The model.
    """
    memo: dict[int, Any] = {}
    try:
        copied = copy.deepcopy(model, memo)
    except Exception:  # noqa: BLE001 - a user's model may hold anything, and its copy may raise anything
        return None
    return None if copied is model else own_outside_state(copied, memo)


@contextmanager
def override_layers(model: nn.Module, kind: type[nn.Module], **values: Any) -> Iterator[None]:
    """Sets attributes of all layers of one class, and restores each layer's own values afterwards.

    Args:
        model: The model that contains the layers.
        kind: The class of the layers.
        **values: The new values by attribute name.
    """
    layers = [module for module in model.modules() if isinstance(module, kind)]
    previous = [(layer, name, getattr(layer, name)) for layer in layers for name in values]
    for layer, name, _ in previous:
        setattr(layer, name, values[name])
    try:
        yield
    finally:
        for layer, name, value in previous:
            setattr(layer, name, value)


def move(
    model: nn.Module,
    device: torch.device,
    images: Tensor,
    *,
    layout: torch.memory_format = torch.channels_last,
    size: BatchSize | None = None,
) -> torch.memory_format:
    """Moves a model to a device in place, with its weights in a memory layout if it runs with them.

    Most convolutions are fastest in the channels-last layout. A model that reshapes its features by ``view`` may not run in
    it. Such a model keeps its own layout, which is logged.

    Args:
        model: The model whose parameters and buffers move.
        device: The target device.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, on any device; a trial pass uses the first two. A batch of one image
            does not reveal every layout problem.
        layout: The layout of the weights.
        size: The batch size; halved where the memory is too small for the trial pass.

    Returns:
        The layout in which the model runs.
    """
    model.to(device)
    tensors, rows, probe = _tensors(model), size or BatchSize(), images[:2]

    def trial_pass() -> None:
        part = probe[: rows.rows].detach()
        # A model may write into its input, so it gets a copy.
        leaf = part.to(device, copy=True, memory_format=layout).requires_grad_()
        model(leaf.clone())

    try:
        model.to(memory_format=layout)
        with frozen(model), torch.enable_grad(), preserve_generators():
            rows.retry_smaller(len(probe), trial_pass)
    except (RuntimeError, UserError) as error:
        tensors.restore()
        if not is_out_of_memory(error):
            _logger.info("%s stays in its own memory layout: %s", type(model).__name__, one_line(error))
        return torch.contiguous_format
    return layout


@contextmanager
def frozen_on(
    model: nn.Module,
    device: torch.device,
    images: Tensor,
    *,
    layout: torch.memory_format = torch.channels_last,
    size: BatchSize | None = None,
) -> Iterator[torch.memory_format]:
    """:func:`Moves <move>` a model to a device and freezes it, and restores everything afterwards.

    Args:
        model: The model to attack.
        device: The device of the attack.
        images: See :func:`move`.
        layout: See :func:`move`.
        size: See :func:`move`.

    Yields:
        The layout in which the model runs.
    """
    tensors = _tensors(model)
    try:
        layout = move(model, device, images, layout=layout, size=size)
        with frozen(model):
            yield layout
    finally:
        tensors.restore()


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a model, to be restored after a move.

    Attributes:
        parameters: Each parameter with its data.
        buffers: Each buffer with its module and its name there.
    """

    parameters: list[tuple[nn.Parameter, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor | None]]

    def restore(self) -> None:
        """Puts the tensors back into the model."""
        for parameter, data in self.parameters:
            parameter.data = data
        for module, name, buffer in self.buffers:
            module._buffers[name] = buffer  # noqa: SLF001 - setattr would set an attribute that shadows the buffer


def _tensors(model: nn.Module) -> _Tensors:
    return _Tensors(
        [(parameter, parameter.data) for parameter in model.parameters()],
        [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()],  # noqa: SLF001
    )


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Puts a model into ``eval()`` mode with parameters that need no gradient, and restores both afterwards."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, needs_gradient in flags.items():
            parameter.requires_grad_(needs_gradient)

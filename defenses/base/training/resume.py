"""The resume file of a training: written after each epoch, read after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.resized import resize_layers

__all__ = ["TrainingState", "read_finals", "read_state", "read_tensors", "resize_as_stored", "write_state"]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The progress of a training of one or more networks, without their weights.

    The field names are part of the file's format.

    Attributes:
        name: The network that was trained last.
        epoch: The number of its finished epochs.
        seconds: The time spent on it.
        finished: The record of each finished network, by name.
        measured: The metrics of the network in training, by name.
        finals: The names of the weights that a finished network ended with, if there are several.
    """

    name: str
    epoch: int
    seconds: float
    finished: dict[str, dict[str, Any]]
    measured: dict[str, Any] = field(default_factory=dict)
    finals: list[str] = field(default_factory=list)


def write_state(
    path: Path,
    state: TrainingState,
    identity: Mapping[str, str],
    *,
    whole: nn.Module,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    copies: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Writes the file atomically.

    Args:
        path: The file. It is replaced if it exists.
        state: The progress of the training.
        identity: What must match for a training to be resumed, by its name in a message.
        whole: The model that contains ``network``, or ``network`` itself.
        network: The network in training. Its own state and the optimizer's are stored only while it is unfinished.
        optimizer: The optimizer of the network's parameters.
        copies: Other states by name: those of the network, such as a running mean, while it is unfinished; those of
            ``whole``, such as the one with the best weights, when it is finished.

    Raises:
        UserError: The file cannot be written.
    """
    tensors = {f"whole/{key}": tensor for key, tensor in whole.state_dict().items()}
    if state.name not in state.finished:
        tensors |= {f"network/{key}": tensor for key, tensor in network.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": tensor for key, tensor in values.items()}
    for name, copy in copies.items():
        tensors |= {f"copies/{name}/{key}": tensor for key, tensor in copy.items()}
    # Cloned, because safetensors refuses tensors that share memory, as those of the network and of the whole model do.
    content = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    write_atomically(path, save(content, {**identity, "state": json.dumps(vars(state))}))


def read_state(
    path: Path,
    content: tuple[dict[str, Tensor], dict[str, str]],
    identity: Mapping[str, str],
    *,
    name: str,
    whole: nn.Module,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    copies: Mapping[str, dict[str, Tensor]],
) -> TrainingState:
    """Loads the state in place: the weights of ``whole``, and network and optimizer if the network is unfinished.

    Args:
        path: The file, for messages.
        content: Its content, from :func:`read_tensors`.
        identity: See :func:`write_state`.
        name: The network to be trained now.
        whole: See :func:`write_state`.
        network: See :func:`write_state`.
        optimizer: See :func:`write_state`.
        copies: See :func:`write_state`. Filled in place.

    Raises:
        UserError: The identity in the file differs.
    """
    tensors, metadata = content
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise UserError(f"{path} is a training with another {key}: delete it to start over")
    state = TrainingState(**json.loads(metadata["state"]))
    whole.load_state_dict(_with_prefix("whole/", tensors))
    if name == state.name and name not in state.finished:
        network.load_state_dict(_with_prefix("network/", tensors))
        _load_optimizer(optimizer, _with_prefix("optimizer/", tensors))
        for copy_name, copy in copies.items():
            for key, tensor in _with_prefix(f"copies/{copy_name}/", tensors).items():
                copy[key].copy_(tensor)
    return state


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors by name, and the metadata, of a file that :func:`write_state` wrote.

    Raises:
        UserError: The file is no resume file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} holds no training to resume ({error}): delete it to start over") from error


def resize_as_stored(whole: nn.Module, content: tuple[dict[str, Tensor], dict[str, str]]) -> None:
    """Gives the layers of a model the sizes that they had when the file was written, before :func:`read_state`.

    Args:
        whole: See :func:`write_state`. Is changed in place.
        content: See :func:`read_state`.

    Raises:
        UserError: See :func:`~robustbench_cli.defenses.base.surgery.resized.resize_layers`.
    """
    resize_layers(whole, _with_prefix("whole/", content[0]))


def read_finals(state: TrainingState, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The states of the whole model that a finished network ended with, by name; empty if there is only one.

    Args:
        state: The progress of the training.
        tensors: From :func:`read_tensors`.
    """
    return {name: _with_prefix(f"copies/{name}/", tensors) for name in state.finals}


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of the name."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, _, part = key.partition("/")
        parameter = parameters[int(index)]
        # In the parameter's memory layout, as the optimizer itself creates it.
        value = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

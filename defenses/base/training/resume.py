"""The file that a training keeps while it runs, and goes on from when it was killed."""

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

__all__ = ["TrainingState", "read_state", "read_tensors", "write_state"]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """How far a training of one or more networks has come, beside their weights.

    Attributes:
        name: Of the network that was trained last.
        epoch: How many epochs of it are done.
        seconds: Spent on it.
        finished: The record of each network that is done, by name.
        measured: What was measured of the network that is in training, by what it is.
    """

    name: str
    epoch: int
    seconds: float
    finished: dict[str, dict[str, float]]
    measured: dict[str, float] = field(default_factory=dict)


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
    """Writes the whole file or none.

    Args:
        path: Replaced if it is there.
        state: How far the training has come.
        identity: What must be the same for a training to go on, by what it is called in a message.
        whole: The model that ``network`` is a part of, or ``network`` itself.
        network: What is being trained; it and the optimizer are kept only while it is not finished.
        optimizer: Over the network's parameters.
        copies: Other states of the network, such as a running mean, by name; kept as long as the network's own.

    Raises:
        UserError: The file cannot be written.
    """
    tensors = {f"whole/{key}": tensor for key, tensor in whole.state_dict().items()}
    if state.name not in state.finished:
        tensors |= {f"network/{key}": tensor for key, tensor in network.state_dict().items()}
        for number, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in values.items()}
        for name, each in copies.items():
            tensors |= {f"copies/{name}/{key}": tensor for key, tensor in each.items()}
    # Tensors of one storage are refused, and the network's are also those of the whole.
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
    """Loads the weights of ``whole`` in place, and network and optimizer too if the file is from amid their training.

    Args:
        path: Is named where it is another training's.
        content: What :func:`read_tensors` read of it.
        identity: See :func:`write_state`.
        name: Of the network that is to be trained now.
        whole: See :func:`write_state`.
        network: See :func:`write_state`.
        optimizer: See :func:`write_state`.
        copies: See :func:`write_state`; filled in place.

    Raises:
        UserError: The file holds the state of another identity.
    """
    tensors, metadata = content
    for what, value in identity.items():
        if metadata.get(what) != value:
            raise UserError(f"{path} is a training with another {what}: delete it to start anew")
    state = TrainingState(**json.loads(metadata["state"]))
    whole.load_state_dict(_below("whole/", tensors))
    if name == state.name and name not in state.finished:
        network.load_state_dict(_below("network/", tensors))
        _load_optimizer(optimizer, _below("optimizer/", tensors))
        for each, copy in copies.items():
            for key, tensor in _below(f"copies/{each}/", tensors).items():
                copy[key].copy_(tensor)
    return state


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and the metadata, of what :func:`write_state` wrote.

    Raises:
        UserError: The file holds none.
    """
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} holds no training to resume ({error}): delete it to start anew") from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        number, _, part = key.partition("/")
        parameter = parameters[int(number)]
        # In the parameter's own memory format, as the optimizer itself would have made it.
        same = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        state.setdefault(int(number), {})[part] = same
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

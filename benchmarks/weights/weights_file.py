"""Reads the tensors in a file of weights of any origin, and refuses a file that would run code."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from robustbench_cli.benchmarks.weights.file_names import SUFFIXES, require_existing
from robustbench_cli.benchmarks.weights.packed_size import ALWAYS_ALLOWED, excessive_size
from robustbench_cli.benchmarks.weights.skops_file import ESTIMATOR, SCHEMA, as_tensor
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.regular_file import open_regular

__all__ = [
    "MOST_CHANNELS",
    "StateDict",
    "key_rank",
    "read_bytes",
    "read_content",
    "read_metadata",
    "read_tensors",
    "require_finite",
    "shortened",
]

_KEYS = (
    *(
        "ema_state_dict",
        "state_dict_ema",
        "model_ema_state_dict",
        "ema_model_state_dict",
        "model_ema",
        "ema_model",
        "ema",
    ),
    *("averaged", "averaged_model", "swa_state_dict", "swa_model", "swa", "teacher"),
    *("best_state_dict", "best_model_state_dict", "best_model", "best"),
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "network",
        "net",
        "params",
        "weights",
        "module",
        "student",
    ),
)
"""The keys or prefixes under which training scripts save weights, in the order of preference.

Running averages come first: who saves them evaluates them (timm prefers them too). Then come the weights saved as the best,
then those of the last step. Other keys follow in the order of the file.
"""

_PLAIN: list[Any] = [argparse.Namespace]
"""Classes that hold values and run nothing: timm, DeiT and MAE save the options of a training in a namespace."""

MOST_CHANNELS = 16
"""The most numbers that a mean or a std of a normalization may have."""

_LONGEST_HEADER = 100_000_000
_MOST_EXPANDED = 16
"""Times the size of a file: state dicts may share tensors, and a tensor may repeat its numbers."""

_ESTIMATOR_WAY_OUT = (
    "where you trust it, load it yourself and save the estimator by skops.io.dump(estimator, 'model.skops')"
)

_WAY_OUT = "where you trust it, load it yourself and save only model.state_dict(), best as .safetensors"


def read_bytes(path: Path) -> bytes:
    """The content of a file of weights.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, a folder, a pipe or a device, or empty; or it is a web page or a pointer of git-lfs.
    """
    require_existing(path)
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a file of weights ({', '.join(SUFFIXES)})"
        ) from None
    if not data:
        raise UserError(f"{path} is empty: save or download it again")
    start = data[:1024].lstrip().lower()
    if start.startswith(b"<") or b"<!doctype html" in start:
        raise UserError(f"{path} is a web page, not a checkpoint: download the file itself, by its direct link")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs, not the file itself: fetch it with 'git lfs pull'")
    return data


def read_metadata(data: bytes) -> dict[str, str] | None:
    """The metadata of a safetensors file; ``None`` for a file of another kind, or if its header is cut off."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > _LONGEST_HEADER:
        return None
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {key: text for key, text in metadata.items() if isinstance(text, str)} if isinstance(metadata, dict) else {}


class StateDict(dict[str, Tensor]):
    """A state dict from a file, and the other state dicts in that file.

    Attributes:
        key: The key of the state dict in the file, ``net.state_dict`` for nested keys; empty if it is the whole file.
        alternatives: The other state dicts, by key.
        beside: The few numbers that the file has outside of its state dicts, such as a mean and a std, by key.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        key: str = "",
        alternatives: Mapping[str, StateDict] | None = None,
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(tensors)
        self.key = key
        self.alternatives = dict(alternatives or {})
        self.beside = dict(beside or {})


def read_tensors(data: bytes, path: Path) -> StateDict:
    """The state dict in a file, on the CPU, without the wrappers that training scripts put around it.

    If there are several, :func:`~.fill.fill` loads the first that fits, in the order of :data:`_KEYS`.

    Args:
        data: The file's content: safetensors, or tensors that ``torch.save`` wrote.
        path: The file's name, for messages.

    Raises:
        UserError: The file is cut off, would run code when loaded, has no state dict, or has NaN or infinity, or tensors
            that are sparse, quantized, without values, or far larger than the file.
    """
    content = read_content(data, path)
    state = content if isinstance(content, StateDict) else _preferred_state(content, path)
    states = (state, state.beside, *state.alternatives.values())
    for tensors in states:
        _require_dense(tensors, path)
    expanded = sum(tensor.numel() * tensor.itemsize for tensors in states for tensor in tensors.values())
    if expanded > max(_MOST_EXPANDED * len(data), ALWAYS_ALLOWED):
        raise UserError(
            f"{path} has {len(data):,} bytes, and its tensors would take {expanded:,}: save each as tensor.contiguous()"
        )
    if not state.alternatives:
        require_finite(state, path)
    return state


def read_content(data: bytes, path: Path) -> Any:
    """The content of a file as it was saved: tensors, numbers and texts in dictionaries and lists, on the CPU.

    Args:
        data: See :func:`read_tensors`.
        path: The file's name, for messages.

    Returns:
        A :class:`StateDict` of a safetensors file, or of a skops file, whose only tensor is its bytes; otherwise what
        ``torch.save`` was given.

    Raises:
        UserError: The file is cut off, or would run code when loaded.
    """
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER:
        try:
            return StateDict(load_safetensors(data))
        except SafetensorError as error:
            raise UserError(f"{path} is cut off or damaged ({one_line(error)}): save or download it again") from None
    if data.startswith(b"PK"):
        return _load_zip(data, path)
    if data.startswith(b"\x80"):
        return _load_pickle(data, path)
    if path.suffix in {".joblib", ".pkl"}:
        raise UserError(f"{path} is a compressed pickle, and loading that could run code: {_ESTIMATOR_WAY_OUT}")
    raise UserError(
        f"{path} is neither a safetensors nor a PyTorch file (it begins with {data[:8]!r}): "
        f"give a state dict saved as {', '.join(SUFFIXES)}"
    )


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Checks every number of a state dict.

    Args:
        tensors: The state dict.
        path: The file, for the message.

    Raises:
        UserError: A tensor has NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path} holds NaN or infinity in {name}: its training has failed, give another checkpoint")


def _require_dense(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors whose values cannot be copied into a network."""
    for name, tensor in tensors.items():
        kinds = {
            "without values (of the device meta)": tensor.is_meta,
            "quantized": tensor.is_quantized,
            "sparse": tensor.layout != torch.strided,
        }
        kind = next((kind for kind, holds in kinds.items() if holds), None)
        if kind is not None:
            raise UserError(f"{path} holds a tensor that is {kind}, {name}: save dense tensors of model.state_dict()")


def key_rank(parts: Iterable[str]) -> int:
    """The rank of a state dict in the order of preference, 0 first; equal ranks stay in the order of the file.

    Args:
        parts: The parts of its key in the file, and of the prefix of its names.

    >>> key_rank(["state_dict"]) > key_rank(["ema", "state_dict"])
    True
    """
    return min((_KEYS.index(part) for part in parts if part in _KEYS), default=len(_KEYS))


def _load_zip(data: bytes, path: Path) -> Any:
    """Loads a file of ``torch.save`` since PyTorch 1.6."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name.rpartition("/")[2] for name in archive.namelist()}
            excess = excessive_size(archive, len(data))
    except Exception:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"{path} is cut off or damaged: save or download it again") from None
    if "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript archive, which is code and is not loaded: {_WAY_OUT}")
    if "archive_format" in records or any("exported_program" in record for record in records):
        raise UserError(f"{path} is an exported program (.pt2), which is code and is not loaded: {_WAY_OUT}")
    is_skops = SCHEMA in records
    if not is_skops and "data.pkl" not in records:
        raise UserError(f"{path} is an archive without PyTorch's data.pkl: give a state dict that torch.save wrote")
    if excess is not None:
        writer = "skops.io.dump" if is_skops else "torch.save"
        raise UserError(f"{path} {excess}: save it again with {writer}, which packs nothing")
    if is_skops:
        return StateDict({ESTIMATOR: as_tensor(data)})
    try:
        with safe_globals(_PLAIN):
            blocked = get_unsafe_globals_in_checkpoint(io.BytesIO(data))
        if not blocked:
            return _load_tensors(data)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"{path} cannot be read ({one_line(error)}): save or download it again") from None
    raise _would_run_code(path, blocked)


def _load_pickle(data: bytes, path: Path) -> Any:
    """Loads a file of ``torch.save`` before PyTorch 1.6, or a bare pickle."""
    try:
        return _load_tensors(data)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL (\S+) (?:was not|whose module)", str(error))
        # PyTorch reports the beginning of a name too, where the file ends within the name.
        if told and f"{told[1]}.".encode() not in data.replace(b"\n", b"."):
            raise UserError(f"{path} is cut off: save or download it again") from None
        blocked = [told[1]] if told else _pickled_names(data)
        if blocked:
            raise _would_run_code(path, blocked) from None
        raise UserError(f"{path} cannot be read as a PyTorch file: save or download it again") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"{path} is cut off or damaged ({one_line(error)}): save or download it again") from None


def _load_tensors(data: bytes) -> Any:
    with warnings.catch_warnings(), safe_globals(_PLAIN):
        # Its warnings are about formats that are then read, or refused with our own message.
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _pickled_names(data: bytes) -> list[str]:
    """The names that a pickle would import, without running it."""
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        return names
    return names


def _would_run_code(path: Path, blocked: Iterable[str]) -> UserError:
    names = sorted(set(blocked))
    way_out = _ESTIMATOR_WAY_OUT if any(name.startswith("sklearn.") for name in names) else _WAY_OUT
    return UserError(f"{path} holds more than tensors, and loading that could run code ({shortened(names)}): {way_out}")


def _preferred_state(content: Any, path: Path) -> StateDict:
    """The preferred state dict in the content of a ``torch.save`` file, with the others as alternatives."""
    states = dict(_state_dicts(content, ()))
    if not states:
        keys = shortened([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{path} holds no state dict ({keys or 'nothing'}): save model.state_dict()")
    first, *others = sorted(states, key=lambda key: key_rank(key.split(".")))
    beside = dict(_few_numbers(content, ()))
    return StateDict(states[first], first, {key: StateDict(states[key], key) for key in others}, beside)


def _few_numbers(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors and lists of 1 to 16 numbers outside of the state dicts, by the keys that lead to them."""
    if not isinstance(content, Mapping) or len(keys) > 3:
        return
    values = [value for value in content.values() if isinstance(value, Tensor)]
    if any(value.numel() > MOST_CHANNELS for value in values):
        return  # A state dict: what is inside of it is its own.
    for key, value in content.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0:
            yield ".".join((*keys, str(key))), value
        elif isinstance(value, list | tuple) and 1 <= len(value) <= MOST_CHANNELS:
            if all(isinstance(number, int | float) and abs(number) < 1e6 for number in value):
                yield ".".join((*keys, str(key))), torch.tensor(value, dtype=torch.float32)
        elif key not in {"optimizer", "optimizer_state_dict"}:
            yield from _few_numbers(value, (*keys, str(key)))


def _state_dicts(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All state dicts in the content of a training script's file, by the keys that lead to them."""
    if not isinstance(content, Mapping) or len(keys) > 3:
        return
    items = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in items.items() if isinstance(value, Tensor)}
    mappings = {key: value for key, value in items.items() if isinstance(value, Mapping)}
    # Scripts save the epoch or the accuracy among the weights.
    is_flat = all(value is None or isinstance(value, Tensor | str | int | float) for value in items.values())
    if tensors and is_flat and len(items) == len(content):
        yield ".".join(keys), tensors
        return
    for key, value in mappings.items():
        # The state of an optimizer has tensors too, under numbers.
        if key in _KEYS or all(isinstance(tensor, Tensor) for tensor in value.values()):
            yield from _state_dicts(value, (*keys, key))


def shortened(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

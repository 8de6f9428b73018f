"""The tensors in a file of weights, whatever wrote it; a file that would run code is refused, never run."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from robustbench_cli.attacks.base.errors import UserError, did_you_mean, one_line

__all__ = ["fill", "read_bytes", "read_metadata", "read_tensors"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# Under which key training scripts keep the state dict, and what wrappers put before the names in it.
_WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_LONGEST_HEADER = 100_000_000
_WAY_OUT = "where you trust it, load it yourself and save only model.state_dict(), best as .safetensors"


def read_bytes(path: Path) -> bytes:
    """The content of a file of weights.

    Raises:
        UserError: There is no such file, or it is empty, a web page, or a pointer of git-lfs.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file of weights ({', '.join(_SUFFIXES)})")
    if not path.is_file():
        near = [file.name for file in path.parent.glob("*") if file.suffix in _SUFFIXES]
        raise UserError(f"no checkpoint {path}: {did_you_mean(path.name, near)}")
    data = path.read_bytes()
    if not data:
        raise UserError(f"{path} is empty: save or download it again")
    start = data[:1024].lstrip().lower()
    if start.startswith(b"<") or b"<!doctype html" in start:
        raise UserError(f"{path} is a web page, not a checkpoint: download the file itself, by its direct link")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs, not the file itself: fetch it with 'git lfs pull'")
    return data


def read_metadata(data: bytes) -> dict[str, str] | None:
    """The metadata of a safetensors file; ``None`` for a file of another kind, or one that is cut off in its header."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > _LONGEST_HEADER:
        return None
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {key: text for key, text in metadata.items() if isinstance(text, str)} if isinstance(metadata, dict) else {}


def read_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU, out of the wrappers that training scripts put around it.

    Args:
        data: The file's content: safetensors, or what ``torch.save`` wrote of tensors.
        path: Its name, for messages.

    Raises:
        UserError: The file is cut off, would run code when loaded, holds no state dict, or holds NaN or infinity.
    """
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER:
        try:
            tensors = load_safetensors(data)
        except SafetensorError as error:
            raise UserError(f"{path} is cut off or damaged ({one_line(error)}): save or download it again") from None
    elif data.startswith(b"PK"):
        tensors = _state_dict(_load_zip(data, path), path)
    elif data.startswith(b"\x80"):
        tensors = _state_dict(_load_pickle(data, path), path)
    else:
        raise UserError(
            f"{path} is neither a safetensors nor a PyTorch file (it begins with {data[:8]!r}): "
            f"give a state dict saved as {', '.join(_SUFFIXES)}"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path} holds NaN or infinity in {name}: its training has failed, give another checkpoint")
    return tensors


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, spec: str) -> None:
    """Copies tensors into a model, all of them and into all of it.

    Args:
        model: Is changed in place.
        tensors: By the model's own names, or these with one of the usual prefixes before each.
        path: Where they come from, for messages.
        spec: What the model is, for messages.

    Raises:
        UserError: A name is missing or left over, or a shape differs.
    """
    expected = model.state_dict()
    candidates = [dict(tensors)]
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in candidates[-1])), None):
        candidates.append({name.removeprefix(prefix): tensor for name, tensor in candidates[-1].items()})
    # A model's own names may begin as a wrapper's do: what fits best is what was meant.
    chosen = max(candidates, key=lambda candidate: len(expected.keys() & candidate.keys()))
    # BatchNorm fills in its counter itself where an old file has none.
    missing = [name for name in expected if name not in chosen and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in chosen if name not in expected]
    shapes = [
        f"{name} {tuple(chosen[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in chosen and chosen[name].shape != tensor.shape
    ]
    faults = [
        f"{word} {_some(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise UserError(
            f"{path} does not fit {spec}: {'; '.join(faults)}: check the model, the classes and the images' shape"
        )
    model.load_state_dict(chosen, strict=True)


def _load_zip(data: bytes, path: Path) -> Any:
    """What ``torch.save`` wrote, since PyTorch 1.6."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # noqa: BLE001 - a damaged file can end in any exception
        raise UserError(f"{path} is cut off or damaged: save or download it again") from None
    if "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript archive, which is code and is not loaded: {_WAY_OUT}")
    if "archive_format" in records or any("exported_program" in record for record in records):
        raise UserError(f"{path} is an exported program (.pt2), which is code and is not loaded: {_WAY_OUT}")
    if "data.pkl" not in records:
        raise UserError(f"{path} is an archive without PyTorch's data.pkl: give a state dict that torch.save wrote")
    try:
        blocked = get_unsafe_globals_in_checkpoint(io.BytesIO(data))
        if not blocked:
            return _load_tensors(data)
    except Exception as error:  # noqa: BLE001 - a damaged file can end in any exception
        raise UserError(f"{path} cannot be read ({one_line(error)}): save or download it again") from None
    raise _would_run_code(path, blocked)


def _load_pickle(data: bytes, path: Path) -> Any:
    """What ``torch.save`` wrote before PyTorch 1.6, or a bare pickle."""
    try:
        return _load_tensors(data)
    except pickle.UnpicklingError as error:
        blocked = re.findall(r"GLOBAL (\S+) (?:was not|whose module)", str(error)) or _pickled_names(data)
        if blocked:
            raise _would_run_code(path, blocked) from None
        raise UserError(f"{path} cannot be read as a PyTorch file: save or download it again") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can end in any exception
        raise UserError(f"{path} is cut off or damaged ({one_line(error)}): save or download it again") from None


def _load_tensors(data: bytes) -> Any:
    with warnings.catch_warnings():
        # About formats that are then read, or refused in our own words.
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _pickled_names(data: bytes) -> list[str]:
    """The names that a pickle would import, found without running it."""
    names: list[str] = []
    words: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(words[-2:]))
            elif isinstance(argument, str):
                words.append(argument)
    except ValueError:
        return names
    return names


def _would_run_code(path: Path, blocked: Iterable[str]) -> UserError:
    return UserError(
        f"{path} holds more than tensors, and loading that could run code ({_some(sorted(set(blocked)))}): {_WAY_OUT}"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(4):
        if not isinstance(content, Mapping) or not content:
            break
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            return dict(content)
        inside = [word for word in _WRAPPERS if isinstance(content.get(word), Mapping)]
        if len(inside) > 1:
            raise UserError(f"{path} holds several state dicts ({', '.join(inside)}): save the one that you mean alone")
        if not inside:
            break
        content = content[inside[0]]
    keys = _some([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"{path} holds no state dict ({keys or 'nothing'}): save model.state_dict()")


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")

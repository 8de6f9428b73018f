"""The tensors in a file of weights, whatever wrote it; a file that would run code is refused, never run."""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["Taken", "Weights", "fill", "read_bytes", "read_metadata", "read_tensors"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
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
"""Under which keys, or before which names, training scripts keep weights, in the order in which they are preferred.

Running averages come first, which is what those who keep them evaluate (timm does the same); then what was kept as the
best; then the weights of the last step. Other keys follow in the order of the file.
"""

# What wrappers put into names, wherever they stand: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_MEAN = re.compile(r"_?((?:\w+_)?)(?:mean|means|mu)")
_STD = re.compile(r"_?((?:\w+_)?)(?:std|stds|stddev|sd|sds|sigma)")
_MOST_CHANNELS = 16
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


class Weights(dict[str, Tensor]):
    """A state dict, as far as one can tell without its model, and the others that stand beside it in its file.

    Attributes:
        key: Under which it stood, ``net.state_dict`` of two keys in each other; empty where it was the whole file.
        others: Those that may be meant instead, by key.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], key: str = "", others: Mapping[str, Weights] | None = None
    ) -> None:
        super().__init__(tensors)
        self.key = key
        self.others = dict(others or {})


class Taken(NamedTuple):
    """What of a file went into a model.

    Attributes:
        words: What was chosen and left out, to be told in one line; empty where the file left no choice.
        chosen: Whether other weights in the file would have fitted too.
        mean: Of the normalization that the file has beside the network.
        std: Of that normalization.
    """

    words: str = ""
    chosen: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def normalization(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, path: Path
    ) -> dict[str, tuple[float, ...] | None]:
        """The mean and std to use: the caller's where they are given, and the file's otherwise.

        Args:
            mean: The caller's.
            std: The caller's.
            path: The file, for the message.

        Raises:
            UserError: They differ from each other.
        """
        for word, given, own in (("mean", mean, self.mean), ("std", std, self.std)):
            if given is not None and own is not None and not _same(given, own):
                shown = ",".join(f"{value:g}" for value in own)
                raise UserError(
                    f"{path} has the {word} {shown} in it, not {','.join(f'{value:g}' for value in given)}: leave --mean and --std "
                    "out"
                )
        if self.mean is None or mean is not None or std is not None:
            return {"mean": mean, "std": std}
        return {"mean": self.mean, "std": self.std}


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    size = max(len(one), len(other))
    pairs = zip(one * (size // len(one)), other * (size // len(other)), strict=False)
    return all(math.isclose(left, right, rel_tol=1e-3, abs_tol=1e-4) for left, right in pairs)


def read_tensors(data: bytes, path: Path) -> Weights:
    """The state dict in a file, on the CPU, out of the wrappers that training scripts put around it.

    Where there are several, :func:`fill` takes the first that fits, in the order of :data:`_KEYS`.

    Args:
        data: The file's content: safetensors, or what ``torch.save`` wrote of tensors.
        path: Its name, for messages.

    Raises:
        UserError: The file is cut off, would run code when loaded, holds no state dict, or holds NaN or infinity.
    """
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER:
        try:
            weights = Weights(load_safetensors(data))
        except SafetensorError as error:
            raise UserError(f"{path} is cut off or damaged ({one_line(error)}): save or download it again") from None
    elif data.startswith(b"PK"):
        weights = _weights(_load_zip(data, path), path)
    elif data.startswith(b"\x80"):
        weights = _weights(_load_pickle(data, path), path)
    else:
        raise UserError(
            f"{path} is neither a safetensors nor a PyTorch file (it begins with {data[:8]!r}): "
            f"give a state dict saved as {', '.join(_SUFFIXES)}"
        )
    if not weights.others:
        _require_finite(weights, path)
    return weights


def _require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path} holds NaN or infinity in {name}: its training has failed, give another checkpoint")


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, spec: str) -> Taken:
    """Copies tensors into a model, all of them and into all of it.

    Any prefix that the model's names have in the file is taken off (``module.``, ``model.``, ``1.`` of a ``Sequential`` with a
    normalization before the network), and what wrappers put inside names. Beside the network the file may hold the mean
    and std of its normalization and the count of an average; and weights of the same network under another key or prefix.

    Args:
        model: Is changed in place.
        tensors: As :func:`read_tensors` gives them.
        path: Where they come from, for messages.
        spec: What the model is, for messages.

    Returns:
        What was taken, and what else would have fitted.

    Raises:
        UserError: A name is missing or left over, or a shape differs; or a weight is NaN or infinite.
    """
    expected = model.state_dict()
    weights = tensors if isinstance(tensors, Weights) else Weights(tensors)
    candidates = [
        each
        for key, state in {weights.key: weights, **weights.others}.items()
        for each in _candidates(key, state, expected)
    ]
    fitting = [each for each in candidates if not each.faults]
    if not fitting:
        nearest = max(candidates, key=lambda each: each.matched)
        raise UserError(
            f"{path} does not fit {spec}: {'; '.join(nearest.faults)}: check the model, the classes and the images' shape"
        )
    taken, *others = sorted(fitting, key=lambda each: each.rank)
    _require_finite(taken.tensors, path)
    model.load_state_dict(taken.tensors, strict=True)
    return taken.told(path, others)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Weights in a file that may be a model's.

    Attributes:
        key: Under which they stand in the file.
        prefix: What their names have before the model's.
        tensors: By the model's names.
        rest: By their names in the file: what is left over and belongs to no other network.
        missing: Names that the model has and they have not.
        shapes: Where the two differ in a shape.
        normalization: The names of the mean and the std among what is left over.
        values: Of these two.
    """

    key: str
    prefix: str
    tensors: dict[str, Tensor]
    rest: list[str]
    missing: list[str]
    shapes: list[str]
    normalization: tuple[str, str] | None
    values: tuple[tuple[float, ...], tuple[float, ...]] | None

    @property
    def matched(self) -> int:
        """How many of the model's tensors they have, in its shapes."""
        return len(self.tensors) - len(self.shapes)

    @property
    def faults(self) -> list[str]:
        """Why they are not the model's; empty where they are."""
        kinds = (("missing", self.missing), ("unexpected", self.rest), ("of another shape", self.shapes))
        return [f"{word} {_some(names)}" for word, names in kinds if names]

    @property
    def rank(self) -> int:
        """Their place in the order of preference; those of one place stay in the order of the file."""
        words = [*reversed(self.key.split(".")), *reversed(self.prefix.strip(".").split("."))]
        return min((_KEYS.index(word) for word in words if word in _KEYS), default=len(_KEYS))

    @property
    def place(self) -> str:
        """Where in the file they stand, in words."""
        return " and ".join(
            words
            for words in (
                f"'{self.key}'" if self.key else "",
                f"the names that begin with '{self.prefix}'" if self.prefix else "",
            )
            if words
        )

    def told(self, path: Path, others: Sequence[_Candidate]) -> Taken:
        """What is to be said of taking these and not the others."""
        words = [f"took {self.place}"] if self.place else []
        if others:
            alternatives = [other.place or "the rest" for other in others]
            words = [
                f"took {self.place or 'the names without a prefix'} (and not {_some(alternatives)}, which would fit too)"
            ]
        if self.normalization is not None:
            words.append(f"the normalization of {' and '.join(self.normalization)}")
        elif self.prefix.strip(".").rpartition(".")[2].isdecimal() and not self.prefix.strip(".").endswith("0"):
            words.append("what stood before it is not in the file: give --mean and --std if it normalized the images")
        mean, std = self.values or (None, None)
        return Taken(f"{path}: {'; '.join(words)}" if words else "", bool(others), mean, std)


def _candidates(key: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[_Candidate]:
    """The networks in a state dict, by the prefixes that make names of it the model's; the one without one at least."""
    own = {part for name in expected for part in name.split(".")}
    plain = {_unwrapped(name, own): name for name in state}
    if len(plain) < len(state):
        # One name stands there with a wrapper and without: they are no wrappers.
        plain = {name: name for name in state}
    prefixes: dict[str, int] = {}
    for name in plain:
        places = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        for place in places:
            if name[place:] in expected:
                prefixes[name[:place]] = prefixes.get(name[:place], 0) + 1
    # BatchNorm fills in its counter itself where an old file has none.
    needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in plain for name in needed)]
    tried = whole or [max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)), default="")]
    networks = {f"{prefix}{name}" for prefix in whole for name in expected}
    found = []
    for prefix in tried:
        tensors = {name: state[plain[f"{prefix}{name}"]] for name in expected if f"{prefix}{name}" in plain}
        used = networks | {f"{prefix}{name}" for name in expected}
        rest = [name for name in plain if name not in used and name.rpartition(".")[2] != "n_averaged"]
        pair = _normalization(rest, {name: state[plain[name]] for name in rest})
        found.append(
            _Candidate(
                key=key,
                prefix=prefix,
                tensors=tensors,
                rest=[plain[name] for name in rest if pair is None or name not in pair],
                missing=[name for name in needed if name not in tensors],
                shapes=[
                    f"{name} {tuple(tensor.shape)} for {tuple(expected[name].shape)}"
                    for name, tensor in tensors.items()
                    if tensor.shape != expected[name].shape
                ],
                normalization=None if pair is None else (plain[pair[0]], plain[pair[1]]),
                values=None if pair is None else (_numbers(state[plain[pair[0]]]), _numbers(state[plain[pair[1]]])),
            )
        )
    return found


def _unwrapped(name: str, own: Collection[str]) -> str:
    """A name without the parts that wrappers put into it, unless the model has such parts of its own."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS or part in own)


def _normalization(names: Sequence[str], tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Of what is left over, the mean and the std of a normalization, if there is exactly one of each, side by side."""
    small = [name for name in names if tensors[name].is_floating_point() and tensors[name].numel() <= _MOST_CHANNELS]
    pairs = []
    for mean in small:
        parent, _, word = mean.rpartition(".")
        begun = _MEAN.fullmatch(word)
        for std in small if begun else ():
            ended = _STD.fullmatch(std.rpartition(".")[2])
            if ended and begun and ended[1] == begun[1] and std.rpartition(".")[0] == parent:
                pairs.append((mean, std))
    return pairs[0] if len(pairs) == 1 else None


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    """Its values as they were written: 0.4914, not what a float32 makes of it."""
    return tuple(float(str(value)) for value in tensor.flatten().to(torch.float32).numpy())


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


def _weights(content: Any, path: Path) -> Weights:
    """The state dicts in what ``torch.save`` wrote, in the order of preference."""
    found = dict(_state_dicts(content, ()))
    if not found:
        keys = _some([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{path} holds no state dict ({keys or 'nothing'}): save model.state_dict()")

    def rank(key: str) -> int:
        return min((_KEYS.index(word) for word in key.split(".") if word in _KEYS), default=len(_KEYS))

    first, *others = sorted(found, key=rank)
    return Weights(found[first], first, {key: Weights(found[key], key) for key in others})


def _state_dicts(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All state dicts in what a training script has saved, by the keys that lead to them."""
    if not isinstance(content, Mapping) or len(keys) > 3:
        return
    words = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in words.items() if isinstance(value, Tensor)}
    inside = {key: value for key, value in words.items() if isinstance(value, Mapping)}
    # Scripts write the epoch or the accuracy among the weights.
    plain = all(value is None or isinstance(value, Tensor | str | int | float) for value in words.values())
    if tensors and plain and len(words) == len(content):
        yield ".".join(keys), tensors
        return
    for key, value in inside.items():
        known = key in _KEYS
        # The state of an optimizer holds tensors too, under numbers.
        if known or all(isinstance(each, Tensor) for each in value.values()):
            yield from _state_dicts(value, (*keys, key))


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")

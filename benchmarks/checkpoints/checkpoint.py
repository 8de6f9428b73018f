"""A trained model in one file that says everything needed to use it, and other people's files of weights."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.checkpoints.weights_file import fill, read_bytes, read_metadata, read_tensors
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import build_model, example_images, normalized
from robustbench_cli.core.atomic_write import ensure_writable, write_atomically
from robustbench_cli.core.errors import Choice, Notice, UserError
from robustbench_cli.defenses import registry as defenses

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "load_checkpoint",
    "read_info",
    "read_own_info",
    "require_writable",
    "save_checkpoint",
    "versions",
]

_KEY = "advdef"
_VERSION = 1
_MOST_PIXELS = 2**24
_MOST_DRAWS = 10_000


def versions() -> dict[str, str]:
    """The versions of what a checkpoint's weights depend on, by name."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("advdef", "numpy", "safetensors", "torch", "torchvision"):
        # A checkout that runs without being installed has no version of its own.
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class CheckpointInfo(BaseModel):
    """What a checkpoint says of itself; JSON in the metadata of the ``.safetensors`` file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(description="Of this format")] = _VERSION
    model: Annotated[str, Field(description="As build_model takes it")]
    mean: Annotated[tuple[float, ...] | None, Field(description="Of the normalisation inside the model")] = None
    std: Annotated[tuple[float, ...] | None, Field(description="Of the normalisation inside the model")] = None
    dataset: Annotated[str | None, Field(description="What it was trained on, as load_dataset takes it")] = None
    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(description="(C, H, W) of the images")]
    classes: Annotated[PositiveInt, Field(description="The number of classes")]
    defenses: Annotated[tuple[MethodSpec, ...], Field(description="In the order in which they protect")] = ()
    training: Annotated[dict[str, Any], Field(description="The record of the training")] = {}
    versions: Annotated[dict[str, str], Field(description="Of what wrote it")] = {}


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        model: In ``eval()`` mode, on the CPU: images ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``.
        info: What the file says of itself, or what the caller said of a foreign one.
        sha256: Of the file's bytes.
    """

    model: nn.Module
    info: CheckpointInfo
    sha256: str


def require_writable(path: Path) -> None:
    """Makes sure, before hours of training, that a checkpoint can be written; its folder is made where there is none.

    Raises:
        UserError: The file's name does not end in ``.safetensors``, or its place cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"a checkpoint is a .safetensors file, not {path.name}: give {path.with_suffix('.safetensors')}"
        )
    ensure_writable(path.parent)


def save_checkpoint(path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    """Writes a checkpoint: the whole file or none.

    Args:
        path: Ends in ``.safetensors``; its folder is made where there is none.
        model: What :func:`load_checkpoint` rebuilds from ``info``.
        info: Goes into the file's metadata.

    Raises:
        UserError: The file's name does not end in ``.safetensors``, or its place cannot be written.
    """
    require_writable(path)
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(path, save_tensors(tensors, metadata={_KEY: info.model_dump_json()}))


def read_info(path: Path) -> CheckpointInfo | None:
    """What a checkpoint says of itself; ``None`` for a foreign file.

    Raises:
        UserError: There is no such file, it is no checkpoint, or a newer version wrote it.
    """
    return _info(read_bytes(path), path)


def read_own_info(path: Path, *, missing: str) -> CheckpointInfo:
    """What a checkpoint of our own says of itself.

    Args:
        path: The file.
        missing: What a foreign file lacks, and what to do: the end of the message.

    Raises:
        UserError: As for :func:`read_info`, or it is a foreign file.
    """
    info = read_info(path)
    if info is None:
        # What is no checkpoint at all, or would run code, is better said at once.
        read_tensors(read_bytes(path), path)
        raise UserError(f"{path} does not say {missing}")
    return info


def load_checkpoint(
    path: Path | str,
    *,
    model: str | None = None,
    classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    shape: tuple[int, int, int] | None = None,
    named: Collection[str] = (),
) -> Checkpoint:
    """Rebuilds the model of a checkpoint, with its defenses and its exact weights.

    The file brings tensors and words, and no code. Where its words name code that is not the project's own or installed
    as a plug-in, that code is imported only if the user has named it too: whoever made the file may not choose what
    runs. One of our own files needs no options; those given must agree with it. A foreign file (``.pt``, ``.pth``,
    ``.bin``, ``.safetensors``) needs ``model``, ``classes`` and ``shape``.

    Args:
        path: The file.
        model: As :func:`~.models.base.build_model` takes it.
        classes: K.
        mean: Of the normalisation that the weights expect, on the [0, 1] pixel scale; ``None`` where they expect none.
        std: Of that normalisation.
        shape: ``(C, H, W)`` of the images.
        named: Models and defenses of the user's own that the user has named, besides ``model``.

    Raises:
        UserError: The file is missing, damaged or no checkpoint, would run code, holds NaN, does not fit the model,
            names code that the user has not named, or is a foreign file of which not enough is said.
    """
    path = Path(path)
    data = read_bytes(path)
    own = _info(data, path)
    given: dict[str, Any] = {
        "model": model,
        "classes": classes,
        "mean": _numbers(mean),
        "std": _numbers(std),
        "shape": None if shape is None else tuple(shape),
    }
    tensors = read_tensors(data, path)
    if own is None:
        info = _said(given, path)
        network = build_model(info.model, shape=info.shape, classes=info.classes)
        taken = fill(network, tensors, path, spec=info.model)
        info = info.model_copy(update=taken.normalization(info.mean, info.std, path))
        # The names in a foreign file are the network's own: the normalisation comes around it afterwards.
        loaded = normalized(network, mean=info.mean, std=info.std, channels=info.shape[0])
        if taken.words:
            warnings.warn(taken.words, Choice if taken.chosen else Notice, stacklevel=2)
    else:
        info = own
        for word, value in given.items():
            if value is not None and value != getattr(info, word):
                raise UserError(f"{path} was made with {word} {getattr(info, word)}, not {value}: leave {word} out")
        _refuse_unnamed_code(info, path, (model, *named))
        try:
            _refuse_what_it_cannot_hold(info, tensors, path)
            info = info.model_copy(update={"defenses": tuple(_with_defaults(spec, path) for spec in info.defenses)})
            loaded = _fresh(info)
        except UserError as error:
            line = str(error)
            raise UserError(line if line.startswith(str(path)) else f"{path}: {line}") from None
        fill(loaded, tensors, path, spec=info.model)
    return Checkpoint(model=loaded.eval(), info=info, sha256=hashlib.sha256(data).hexdigest())


def _said(given: Mapping[str, Any], path: Path) -> CheckpointInfo:
    """What the caller says of a foreign file."""
    needed = [word for word in ("model", "classes", "shape") if given[word] is None]
    if needed:
        raise UserError(
            f"{path} does not say what it holds: give its {' and '.join(needed)}, as in --model torchvision:resnet18 "
            f"--classes 10 --dataset cifar10, with --mean and --std where its training normalised the images"
        )
    if given["classes"] < 2:
        raise UserError(f"classes is {given['classes']}: give the number of classes, at least 2")
    return CheckpointInfo(**given)


def _fresh(info: CheckpointInfo) -> nn.Module:
    """The defended model that ``info`` describes, before it is given its weights."""
    model = build_model(info.model, shape=info.shape, classes=info.classes, mean=info.mean, std=info.std)
    for spec in info.defenses:
        model = spec.build(defenses).protect(model, example_images(info.shape)[:1])
    return model


def _refuse_unnamed_code(info: CheckpointInfo, path: Path, named: Collection[str | None]) -> None:
    models.trusted(info.model, file=path, named=named)
    for spec in info.defenses:
        defenses.trusted(spec.name, file=path, named=named)


def _with_defaults(spec: MethodSpec, path: Path) -> MethodSpec:
    """A defense with all its parameters, of which a file lacks those that are younger than itself.

    What the file says stays as it says it, and so does the identity of what it holds whole.
    """
    kind = defenses.load(spec.name)
    missing = [key for key in kind.model_fields if key not in spec.parameters]
    if not missing:
        return spec
    every = MethodSpec.of(spec.build(defenses), name=spec.name).parameters
    for key in missing:
        warnings.warn(
            f"{path} says nothing of {spec.name}.{key}: the default {json.dumps(every[key])} is taken", stacklevel=4
        )
    return spec.model_copy(update={"parameters": {**every, **spec.parameters}})


def _refuse_what_it_cannot_hold(info: CheckpointInfo, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses a file that describes more than is in it, before memory is taken for what it describes."""
    weights = sum(tensor.numel() for tensor in tensors.values())
    # As the defenses read them: what JSON has as 4e16 or "40" is a whole number too.
    values = [value for spec in info.defenses for value in dict(spec.build(defenses)).values()]
    # A list of whole numbers counts parts, as the channels of HRS, and a part has a tensor of its own.
    lists = [each for each in values if isinstance(each, list | tuple) and all(isinstance(part, int) for part in each)]
    draws = [defense.draws for defense in (spec.build(defenses) for spec in info.defenses) if hasattr(defense, "draws")]
    for what, number, most in (
        ("pixels an image", math.prod(info.shape), _MOST_PIXELS),
        ("classes", info.classes, max(weights, 1000)),
        ("parts of a defense", sum(map(sum, lists)), max(len(tensors), 100)),
        ("draws of a decision", max(draws, default=0), _MOST_DRAWS),
    ):
        if number > most:
            raise UserError(f"{path} speaks of more than {most} {what}, which it cannot hold: it is damaged")


def _info(data: bytes, path: Path) -> CheckpointInfo | None:
    text = (read_metadata(data) or {}).get(_KEY)
    if text is None:
        return None
    try:
        info = CheckpointInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} says of itself what this version of advdef does not understand ({where}: {first['msg']})"
        ) from None
    if info.version != _VERSION:
        raise UserError(f"{path} is a checkpoint of version {info.version}, this is version {_VERSION}: update advdef")
    return info


def _numbers(values: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return tuple(float(value) for value in values) if isinstance(values, Sequence) else (float(values),)

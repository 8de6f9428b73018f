"""A checkpoint: a trained model in one file with everything that is needed to use it, and foreign files of weights."""

from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.checkpoints.training_record import checked_record
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import (
    build_from_file,
    build_untrained,
    example_images,
    normalization_fields,
    normalized,
)
from robustbench_cli.benchmarks.models.base.estimators.names import name_of
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.plausible_size import require_plausible_size
from robustbench_cli.benchmarks.models.base.source import bare_network, model_source, own_model_for
from robustbench_cli.benchmarks.models.base.timm_network import TimmNetwork
from robustbench_cli.benchmarks.weights.fill import fill
from robustbench_cli.benchmarks.weights.folder import read_json
from robustbench_cli.benchmarks.weights.opened_file import OpenedFile, open_file
from robustbench_cli.benchmarks.weights.skops_file import ESTIMATOR, read_estimator
from robustbench_cli.core.atomic_write import ensure_writable, write_atomically
from robustbench_cli.core.errors import Choice, Notice, UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import protected_by

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "load_checkpoint",
    "metadata_of",
    "read_advdef_info",
    "read_info",
    "require_writable",
    "save_checkpoint",
    "versions",
]

_KEY = "advdef"
_VERSION = 1
_MOST_PIXELS = 2**24
_MOST_DRAWS = 10_000


def versions() -> dict[str, str]:
    """The versions of the software that a checkpoint's weights depend on, by name."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for name in ("advdef", "numpy", "safetensors", "torch", "torchvision"):
        # A checkout that is not installed has no version.
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


class CheckpointInfo(BaseModel):
    """The description of a checkpoint: JSON in the metadata of its ``.safetensors`` file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(description="version of this format")] = _VERSION
    model: Annotated[str, Field(description="the model, as build_model takes it")]
    mean: Annotated[tuple[float, ...] | None, Field(description="mean of the normalization inside the model")] = None
    std: Annotated[tuple[float, ...] | None, Field(description="standard deviation of that normalization")] = None
    config: Annotated[dict[str, Any], Field(description="what the model is built from besides its name")] = {}
    dataset: Annotated[str | None, Field(description="the training data, as load_dataset takes it")] = None
    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(description="(C, H, W) of the images")]
    classes: Annotated[PositiveInt, Field(description="number of classes")]
    defenses: Annotated[
        tuple[MethodSpec, ...], Field(description="defenses in the order in which they are applied")
    ] = ()
    training: Annotated[
        dict[str, Any], AfterValidator(checked_record), Field(description="record of the training")
    ] = {}
    versions: Annotated[dict[str, str], Field(description="versions of the software that wrote it")] = {}


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        model: In ``eval()`` mode, on the CPU: images ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``.
        info: The description in the file, or the caller's for a foreign file.
        sha256: Of the file's bytes.
    """

    model: nn.Module
    info: CheckpointInfo
    sha256: str


def require_writable(path: Path) -> None:
    """Checks, before hours of training, that a checkpoint can be written; makes its folder.

    Args:
        path: The file to be written.

    Raises:
        UserError: The file's name does not end in ``.safetensors``, or its folder cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"a checkpoint is a .safetensors file, not {path.name}: give {path.with_suffix('.safetensors')}"
        )
    ensure_writable(path.parent)


def save_checkpoint(path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: Ends in ``.safetensors``; its folder is made if it is missing.
        model: The model that :func:`load_checkpoint` rebuilds from ``info``.
        info: The description, for the file's metadata.

    Raises:
        UserError: The file's name does not end in ``.safetensors``, or its folder cannot be written.
    """
    require_writable(path)
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    # A version of advdef that does not know this field reads every checkpoint that does not need it.
    text = info.model_dump_json(exclude=None if info.config else {"config"})
    write_atomically(path, save_tensors(tensors, metadata={_KEY: text}))


def read_info(path: Path, *, named: Collection[str | None]) -> CheckpointInfo | None:
    """The description in a checkpoint; ``None`` for a foreign file.

    Its names are safe to load. No description leaves this module before its names are checked, since whoever has it may
    load them.

    Args:
        path: The file.
        named: Models and defenses of the user's own that the user has named.

    Raises:
        UserError: The file is missing, is no checkpoint, or was written by a newer version; or it names code that the user
            has not named.
    """
    info = _info(open_file(path), path)
    if info is not None:
        _refuse_unnamed_code(info, path, named)
    return info


def read_advdef_info(path: Path, *, missing: str, named: Collection[str | None]) -> CheckpointInfo:
    """The description in a checkpoint of our own.

    Args:
        path: The file.
        missing: What a foreign file does not say, and what to do: the end of the message.
        named: See :func:`read_info`.

    Raises:
        UserError: As for :func:`read_info`, or the file is foreign.
    """
    info = read_info(path, named=named)
    if info is None:
        # A file that is no checkpoint at all, or that would run code, has a better message than the one below.
        open_file(path).tensors(path)
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
    config: Mapping[str, Any] | None = None,
    named: Collection[str] = (),
) -> Checkpoint:
    """Rebuilds the model of a checkpoint, with its defenses and its exact weights.

    The file holds tensors and names, but no code. If a name is code that is neither the project's own nor an installed
    plug-in, the code is imported only if the user has named it too: the author of a file may not choose what runs. A
    checkpoint of our own needs no options; options that are given must agree with it. A foreign file (``.pt``, ``.pth``,
    ``.bin``, ``.safetensors``) needs ``model``, ``classes`` and ``shape``.

    Args:
        path: The file; or a folder of the Hub with ``model.safetensors``, its shards, or ``pytorch_model.bin``. A folder with
            the ``config.json`` of a timm model needs neither ``model`` nor ``classes``.
        model: As :func:`~.models.base.build.build_model` takes it.
        classes: K.
        mean: Mean of the normalization that the weights expect, on the [0, 1] pixel scale; ``None`` if they expect none.
        std: Standard deviation of that normalization.
        shape: ``(C, H, W)`` of the images.
        config: What the model in a foreign file is built from besides its name; see
            :func:`~.models.base.build.build_model`.
        named: Models and defenses of the user's own that the user has named, besides ``model``.

    Raises:
        UserError: The file is missing, damaged or no checkpoint; it would run code or has NaN; it does not fit the model
            or names code that the user has not named; or it is foreign and ``model``, ``classes`` or ``shape`` is missing.
    """
    path = Path(path)
    file = open_file(path)
    info = _info(file, path)
    options: dict[str, Any] = {
        "model": model,
        "classes": classes,
        "mean": _numbers(mean),
        "std": _numbers(std),
        "shape": None if shape is None else tuple(shape),
    }
    if info is None:
        loaded, info = _load_foreign(file, path, options | {"config": dict(config or {})})
    else:
        loaded, info = _load_advdef(file, path, info, options, named=(model, *named))
    return Checkpoint(model=loaded.eval(), info=info, sha256=file.sha256)


def _load_foreign(file: OpenedFile, path: Path, options: Mapping[str, Any]) -> tuple[nn.Module, CheckpointInfo]:
    """The model and the description of a foreign file."""
    tensors = file.tensors(path)
    described = _network_in_folder(path) if options["model"] is None else None
    options = options if described is None else _with_description(options, described, path)
    if options["model"] is None and ESTIMATOR in tensors:
        options = {**options, "model": _estimator_in(tensors[ESTIMATOR], path)}
    info = _info_from_options(options, tensors, path)
    config = (info.config or None) if described is None else described.full_config
    if described is not None:
        _require_plausible_size(info.model_copy(update={"config": config}), tensors, path)
    built = build_from_file(info.model, tensors, path, shape=info.shape, classes=info.classes, config=config)
    loaded = built.loaded
    normalization = loaded.normalization(info.mean, info.std, path)
    message = loaded.message
    if set(normalization.values()) == {None}:
        assumptions = replace(built.metadata, origin="").assumptions(
            shape=info.shape, classes=info.classes, normalization_is_given=False
        )
        message = f"{message + ';' if message else path} as {built.spec}: {assumptions}"
    mean, std = built.metadata.normalization(**normalization)
    fields = normalization_fields(mean, std, channels=info.shape[0])
    info = info.model_copy(update={**fields, "model": built.spec, "config": built.config})
    # The names in a foreign file are the network's own, so the normalization is added after the weights.
    model = normalized(built.network, mean=info.mean, std=info.std, channels=info.shape[0])
    if message:
        warnings.warn(message, Choice if loaded.has_alternatives else Notice, stacklevel=3)
    return model, info


def _network_in_folder(path: Path) -> TimmNetwork | None:
    """The network that a folder of the Hub describes; ``None`` for a file, or a folder without a description."""
    config = path / "config.json"
    if not path.is_dir() or not config.is_file():
        return None
    return TimmNetwork.from_config(read_json(config), where=str(path))


def _estimator_in(data: Tensor, path: Path) -> str:
    """The name of the model in a skops file.

    Args:
        data: The bytes of the file.
        path: The file, for the message.
    """
    try:
        return f"sklearn:{name_of(read_estimator(data))}"
    except UserError as error:
        raise UserError(f"{path}: its estimator {error}") from None


def _with_description(options: Mapping[str, Any], network: TimmNetwork, path: Path) -> dict[str, Any]:
    """The caller's options, completed by what a folder says."""
    known = {
        "model": f"timm:{network.architecture}",
        "classes": options["classes"] or network.metadata(origin="", where=str(path)).classes,
    }
    return {**options, **known}


def _load_advdef(
    file: OpenedFile,
    path: Path,
    info: CheckpointInfo,
    options: Mapping[str, Any],
    *,
    named: Collection[str | None],
) -> tuple[nn.Module, CheckpointInfo]:
    """The model and the description of one of our own checkpoints."""
    tensors = file.tensors(path)
    channels = info.shape[0]
    info = info.model_copy(update=normalization_fields(info.mean, info.std, channels=channels))
    options = {**options, **normalization_fields(options["mean"], options["std"], channels=channels)}
    for key, value in options.items():
        if value is not None and value != getattr(info, key):
            raise UserError(f"{path} was made with {key} {getattr(info, key)}, not {value}: leave {key} out")
    _refuse_unnamed_code(info, path, named)
    try:
        # Renamed first: building a defense by former names would warn the user, who did not type them.
        renamed = tuple(spec.renamed(defenses.load(spec.name)) for spec in info.defenses)
        info = info.model_copy(update={"defenses": renamed})
        _refuse_impossible_sizes(info, tensors, path)
        _require_plausible_size(info, tensors, path)
        info = info.model_copy(update={"defenses": tuple(_with_defaults(spec, path) for spec in info.defenses)})
        model = _build(info)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(str(path)) else f"{path}: {line}") from None
    fill(model, tensors, path, spec=info.model)
    return model, info


def _info_from_options(options: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> CheckpointInfo:
    """The description of a foreign file, from the caller's options."""
    missing = [key for key in ("model", "classes", "shape") if options[key] is None]
    if missing == ["model"]:
        own = own_model_for(tensors, shape=options["shape"], classes=options["classes"])
        raise UserError(
            f"{path} does not say what it holds: give "
            f"{f'--model {own}, which it fits' if own else 'its model, as in --model net.py:Net'}"
            ", with --mean and --std where its training normalized the images"
        )
    if missing:
        raise UserError(
            f"{path} does not say what it holds: give its {' and '.join(missing)}, as in --model torchvision:resnet18 "
            f"--classes 10 --dataset cifar10, with --mean and --std where its training normalized the images"
        )
    if options["classes"] < 2:
        raise UserError(f"classes is {options['classes']}: give the number of classes, at least 2")
    return CheckpointInfo(**options)


def metadata_of(path: Path | None, model: str | None) -> ModelMetadata:
    """What is known of the images and the classes of a model before its weights are read.

    Args:
        path: Its checkpoint; ``None`` if the weights come with the name.
        model: Its name; ``None`` if the checkpoint says what it is.

    Raises:
        UserError: The file is missing, or a folder's description is damaged; the model is unknown, or its source cannot be
            reached.
    """
    info = None if path is None else _info(open_file(path), path)
    if info is not None:
        channels, *size = info.shape
        return ModelMetadata(classes=info.classes, channels=channels, image_size=(size[0], size[1]))
    described = _network_in_folder(path) if path is not None and model is None else None
    if described is not None:
        return described.metadata(origin="", where=str(path))
    source = None if model is None else model_source(model)
    return source.metadata if source is not None and source.trained else ModelMetadata()


def _build(info: CheckpointInfo) -> nn.Module:
    """The defended model that ``info`` describes, with fresh weights."""
    model = build_untrained(
        info.model, shape=info.shape, classes=info.classes, mean=info.mean, std=info.std, config=info.config
    )
    for spec in info.defenses:
        model = protected_by(spec.build(defenses), model, example_images(info.shape)[:1])
    return model


def _refuse_unnamed_code(info: CheckpointInfo, path: Path, named: Collection[str | None]) -> None:
    models.trusted(info.model, file=path, named=named)
    for spec in info.defenses:
        defenses.trusted(spec.name, file=path, named=named)


def _with_defaults(spec: MethodSpec, path: Path) -> MethodSpec:
    """A defense with all its parameters; an older file lacks newer ones, which get their defaults.

    The values in the file stay as they are, and so does the identity of a defense that the file has in full.
    """
    kind = defenses.load(spec.name)
    if not set(kind.model_fields) - set(spec.parameters):
        return spec
    # Without parameters that a defense excludes at their defaults: no file has those.
    parameters = MethodSpec.of(spec.build(defenses), name=spec.name).parameters
    missing = [key for key in parameters if key not in spec.parameters]
    for key in missing:
        warnings.warn(
            f"{path} does not say {spec.name}.{key}: its default {json.dumps(parameters[key])} is used", stacklevel=5
        )
    return spec.model_copy(update={"parameters": {**parameters, **spec.parameters}})


def _refuse_impossible_sizes(info: CheckpointInfo, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses a file that describes a larger model than it holds, before memory is allocated for it."""
    weights = sum(tensor.numel() for tensor in tensors.values())
    # As the defenses read the values: 4e16 and "40" in JSON are whole numbers too.
    values = [value for spec in info.defenses for value in dict(spec.build(defenses)).values()]
    # A list of whole numbers counts parts, as the channels of HRS, and each part has a tensor of its own.
    counts = [
        value for value in values if isinstance(value, list | tuple) and all(isinstance(part, int) for part in value)
    ]
    draws = [defense.draws for defense in (spec.build(defenses) for spec in info.defenses) if hasattr(defense, "draws")]
    for what, number, most in (
        ("pixels an image", math.prod(info.shape), _MOST_PIXELS),
        ("classes", info.classes, max(weights, 1000)),
        ("parts of a defense", sum(map(sum, counts)), max(len(tensors), 100)),
        ("draws of a decision", max(draws, default=0), _MOST_DRAWS),
    ):
        if number > most:
            raise UserError(f"{path} describes more than {most} {what}, which it cannot hold: it is damaged")


def _require_plausible_size(info: CheckpointInfo, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compares the network that a file describes with the file; a user's own code is not run for it."""
    if models.module_of(info.model.partition(":")[0]) is not None:
        # An empty config stays: without any, a source would ask the network for the one that the file lacks.
        build = partial(bare_network, info.model, shape=info.shape, classes=info.classes, config=info.config)
        require_plausible_size(build, tensors, path)


def _info(file: OpenedFile, path: Path) -> CheckpointInfo | None:
    """The description in a file; ``None`` if it has none."""
    text = (file.metadata or {}).get(_KEY)
    if text is None:
        return None
    try:
        info = CheckpointInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} has a description that this version of advdef does not understand ({field:.200}: {first['msg']})"
        ) from None
    if info.version != _VERSION:
        raise UserError(f"{path} is a checkpoint of version {info.version}, this is version {_VERSION}: update advdef")
    return info


def _numbers(values: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return tuple(float(value) for value in values) if isinstance(values, Sequence) else (float(values),)

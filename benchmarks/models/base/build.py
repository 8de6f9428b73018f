"""Builds a model by its name, with its normalization inside, and checks that it is a classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustbench_cli.attacks.base.inputs import checked_count, checked_keywords, checked_logits, require_classes
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.outside_state import preserve_outside_state
from robustbench_cli.benchmarks.datasets.base.preprocessing import size_hint
from robustbench_cli.benchmarks.models import registry
from robustbench_cli.benchmarks.models.base.factory import make, unwrapped
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource, model_source, own_model_for
from robustbench_cli.benchmarks.weights.fill import LoadedWeights, OtherClassesError, fill
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.isolation import isolated

__all__ = [
    "FromFile",
    "Normalize",
    "are_probabilities",
    "build_from_file",
    "build_model",
    "build_untrained",
    "check_model",
    "default_model",
    "example_images",
    "is_trained",
    "normalization_fields",
    "normalized",
    "require_fit",
    "says_if_trained",
]


Numbers = float | Sequence[float] | Tensor | NDArray[Any]
"""One number for all channels, or one per channel."""


class Normalize(nn.Module):
    """``(images - mean) / std``, channel by channel, as the first layer of a model.

    Args:
        mean: One number per channel, or one for all, on the [0, 1] pixel scale.
        std: The same, each above 0.
        channels: C.

    Raises:
        UserError: There are neither one nor C numbers, a number is not finite, a mean is outside [0, 1], or a std is not above 0.
    """

    monotone = True
    """The outputs are nondecreasing in the inputs, so that interval bounds pass through by their ends."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Numbers, std: Numbers, channels: int) -> None:
        super().__init__()
        means, stds = _channel_values(mean, "mean", channels), _channel_values(std, "std", channels)
        for value in means:
            if not 0 <= value <= 1:
                raise UserError(
                    f"mean is {value:g}: give it on the [0, 1] pixel scale (divided by 255 where pixels were)"
                )
        for value in stds:
            if not 0 < value < math.inf:
                raise UserError(f"std is {value:g}: give a number above 0, on the [0, 1] pixel scale")
        self.register_buffer("mean", torch.tensor(means).reshape(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(stds).reshape(1, channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] → normalized images of the same shape."""
        return (images - self.mean) / self.std


def _channel_values(values: Numbers, name: str, channels: int) -> list[float]:
    """One number per channel.

    Raises:
        UserError: There are neither one nor C numbers.
    """
    plain: Any = values.tolist() if isinstance(values, Tensor | np.ndarray | np.generic) else values
    try:
        numbers = [float(value) for value in (plain if isinstance(plain, Sequence) else [plain])]
    except (TypeError, ValueError):
        raise UserError(f"{name} is {values!r}: give a number, or one per channel") from None
    if len(numbers) not in (1, channels):
        known = "one channel, give one" if channels == 1 else f"{channels} channels, give one or {channels}"
        raise UserError(f"{name} has {len(numbers)} numbers: the images have {known}")
    return numbers * (channels if len(numbers) == 1 else 1)


def normalization_fields(
    mean: Numbers | None, std: Numbers | None, *, channels: int
) -> dict[str, tuple[float, ...] | None]:
    """A normalization in the one form in which equal ones are equal: C numbers each, or ``None``.

    Args:
        mean: See :class:`Normalize`.
        std: See :class:`Normalize`.
        channels: C.

    Raises:
        UserError: There are neither one nor C numbers.

    >>> normalization_fields(0.5, [0.1, 0.2, 0.3], channels=3)
    {'mean': (0.5, 0.5, 0.5), 'std': (0.1, 0.2, 0.3)}
    """
    given = {"mean": mean, "std": std}
    return {
        name: None if values is None else tuple(_channel_values(values, name, channels))
        for name, values in given.items()
    }


def normalized(network: nn.Module, *, mean: Numbers | None, std: Numbers | None, channels: int) -> nn.Module:
    """Puts the normalization into the model, so that attacks see images in [0, 1].

    Args:
        network: Takes normalized images.
        mean: See :class:`Normalize`; ``None``, with ``std``, for a network without normalization.
        std: See :class:`Normalize`.
        channels: C.

    Returns:
        ``network`` itself, or a ``Sequential`` of ``normalize`` and ``network``.

    Raises:
        UserError: Only one of the two is given, or :class:`Normalize` does not take them.
    """
    if mean is None and std is None:
        return network
    if mean is None or std is None:
        raise UserError(f"{'std' if mean is None else 'mean'} is given alone: mean and std belong together, give both")
    normalize = Normalize(mean=mean, std=std, channels=channels)
    return nn.Sequential(OrderedDict(normalize=normalize, network=network))


class FromFile(NamedTuple):
    """A network with the weights of a file.

    Attributes:
        network: Without its normalization.
        loaded: What was loaded of the file.
        spec: The model's name in full.
        metadata: Metadata of the weights from the model's source.
        config: The ``config`` of its source.
    """

    network: nn.Module
    loaded: LoadedWeights
    spec: str
    metadata: ModelMetadata
    config: dict[str, Any]


@checked_keywords
def build_model(
    spec: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Builds a model: with its published weights if its name has some, else with fresh weights from torch's global generator.

    Args:
        spec: ``paper-cnn``, ``small-cnn``, ``torchvision:NAME``, ``torchvision:NAME@WEIGHTS``, or a user's own as
            ``package.module:object`` or ``path/to/file.py:object``. The object is a class or a function that returns an
            ``nn.Module``, with no parameters or any of :data:`~.factory.PARAMETERS` (others have defaults); or an
            ``nn.Module``, which is copied.
        shape: ``(C, H, W)`` of the images.
        classes: K.
        mean: Mean of the normalization that the network expects; see :class:`Normalize`. Published weights have their own.
        std: Standard deviation of that normalization.
        config: What the model is built from besides its name, such as ``{"class_names": ["cat", "dog"]}`` for
            ``open-clip:``; see :class:`~.source.ModelSource`.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``.

    Raises:
        UserError: The model is unknown, cannot be built for this shape, has weights for another number of classes, or fails
            :func:`check_model`.
    """
    name, size, number = _checked(spec, shape, classes)
    source = _source(spec, config=config)
    if source is None or not source.trained:
        return build_untrained(spec, shape=shape, classes=classes, mean=mean, std=std, config=config)
    metadata = source.metadata
    require_fit(metadata, name, shape=size, classes=number)
    mean, std = metadata.normalization(mean, std)
    with _building(name):
        network = source.pretrained(shape=size)
    return _finished(network, name=name, shape=size, classes=number, mean=mean, std=std)


def build_untrained(
    spec: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Builds a model with fresh weights, also if its name has published ones: for weights from a file.

    Args:
        spec: See :func:`build_model`.
        shape: See :func:`build_model`.
        classes: See :func:`build_model`.
        mean: See :func:`build_model`.
        std: See :func:`build_model`.
        config: The ``config`` of a :class:`~.source.ModelSource`, from a checkpoint.

    Raises:
        UserError: See :func:`build_model`.
    """
    name, size, number = _checked(spec, shape, classes)
    finish = partial(_finished, name=name, shape=size, classes=number, mean=mean, std=std)
    source = _source(spec, config=config)
    if source is not None:
        with _building(name):
            network = source.untrained(shape=size, classes=number)
        return finish(network)
    target, argument = registry.find(spec)
    return make(target, name=name, shape=size, classes=number, argument=argument, finish=finish)


def build_from_file(
    spec: str,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    shape: tuple[int, int, int],
    classes: int,
    config: Mapping[str, Any] | None = None,
) -> FromFile:
    """Builds a network with the weights of a file that is no checkpoint of advdef.

    Args:
        spec: See :func:`build_model`.
        tensors: As :func:`~robustbench_cli.benchmarks.weights.weights_file.read_tensors` returns them.
        path: The file.
        shape: See :func:`build_model`.
        classes: See :func:`build_model`.
        config: See :func:`build_untrained`.

    Raises:
        UserError: See :func:`build_model`; or the file does not fit.
    """
    name, size, number = _checked(spec, shape, classes)
    source = _source(spec, config=config)
    if source is None:
        network = build_untrained(spec, shape=size, classes=number)
        with _naming_what_fits(spec, tensors, path, size, number):
            loaded = fill(network, tensors, path, spec=spec)
        return FromFile(network, loaded, spec, ModelMetadata(), {})
    metadata = source.metadata if source.trained else ModelMetadata(channels=size[0])
    # Weights of another name may have been trained further, on other classes.
    require_fit(metadata, name, shape=size, classes=number if source.describes_files else None)
    with _naming_what_fits(spec, tensors, path, size, number), _building(name):
        network, loaded = source.from_file(tensors, path, shape=size, classes=number)
    network = _finished(network, name=name, shape=size, classes=number, mean=None, std=None)
    return FromFile(network, loaded, source.spec, metadata, source.config)


@contextmanager
def _naming_what_fits(
    spec: str, tensors: Mapping[str, Tensor], path: Path, shape: tuple[int, int, int], classes: int
) -> Iterator[None]:
    """Names one of the project's own models in the error of a file that does not fit, if the file fits it."""
    try:
        yield
    except UserError:
        other = own_model_for(tensors, shape=shape, classes=classes)
        if other is None:
            raise
        raise UserError(f"{path} does not fit {spec}, but {other}: give --model {other}") from None


@contextmanager
def _building(name: str) -> Iterator[None]:
    """Runs a library's code and turns any exception into one line."""
    try:
        with isolated():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot be built: {one_line(error)}") from error


def require_fit(metadata: ModelMetadata, name: str, *, shape: tuple[int, int, int], classes: int | None) -> None:
    """Checks that published weights are for the images and the classes that they will meet.

    Args:
        metadata: Of the weights.
        name: The model's name, for messages.
        shape: ``(C, H, W)`` of the images.
        classes: K; ``None`` for any.

    Raises:
        UserError: They have another number of classes or of channels.
    """
    if classes is not None and metadata.classes not in {None, classes}:
        raise UserError(
            f"{name} has {metadata.classes:,} classes, and {classes:,} are asked for: give its own number of classes, or "
            "weights that were trained on yours"
        )
    if metadata.channels != shape[0]:
        hint = size_hint((metadata.channels, *shape[1:]), shape)
        raise UserError(
            f"{name} takes images with {metadata.channels} channels, these have {shape[0]}: give images that it was "
            f"trained on{hint}"
        )


def _source(spec: str, *, config: Mapping[str, Any] | None = None) -> ModelSource | None:
    """See :func:`~.source.model_source`."""
    # A user's file may draw random numbers at its first import; without this, a second model would get other weights.
    state = torch.get_rng_state()
    source = model_source(spec, config=config)
    torch.set_rng_state(state)
    return source


def _finished(
    network: nn.Module,
    *,
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    mean: Numbers | None,
    std: Numbers | None,
) -> nn.Module:
    """The network with its normalization, checked on images of the shape."""
    model = normalized(network, mean=mean, std=std, channels=shape[0])
    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        try:
            model.eval()(example_images(shape)[:1])
        except Exception as error:
            raise UserError(f"{name} cannot run on images of shape {shape}: {one_line(error)}") from error
        model.train()
    with preserve_outside_state(model):
        check_model(model, example_images(shape), classes=classes, name=name)
    return model


def _checked(spec: object, shape: object, classes: object) -> tuple[str, tuple[int, int, int], int]:
    """The name of the model for messages, the shape as a tuple, and the number of classes.

    Raises:
        UserError: ``spec`` is no name, ``classes`` is below 2, or ``shape`` is not three positive whole numbers.
    """
    if not isinstance(spec, str):
        hint = "it is built already" if isinstance(spec, nn.Module) else "give its name, such as 'small-cnn'"
        raise UserError(f"the model is a {type(spec).__name__}: {hint}")
    number = checked_count(classes, "classes", "give the number of classes, at least 2", least=2)
    sides = [*shape] if isinstance(shape, Iterable) and not isinstance(shape, str) else []
    if len(sides) != 3:
        raise UserError(f"shape is {shape!r}: give (C, H, W), three whole numbers")
    channels, height, width = (checked_count(side, "a side of the shape") for side in sides)
    return f"model {spec}", (channels, height, width), number


def default_model(shape: tuple[int, int, int]) -> str:
    """The default model for images of a shape.

    Args:
        shape: ``(C, H, W)``.

    Raises:
        UserError: There is no default for this shape.
    """
    if shape in ((1, 28, 28), (3, 32, 32)):
        return "paper-cnn"
    if shape[1] <= 64 and shape[2] <= 64:
        return "small-cnn"
    raise UserError(f"no default model for images of shape {shape}: give --model, such as torchvision:resnet18")


def is_trained(spec: str) -> bool:
    """Whether a model comes with trained weights: by its name, or by a true attribute ``trained``.

    The attribute is one of its class, function or module. A user's ``nn.Module`` counts as trained, unless its ``trained`` is false.

    Args:
        spec: As :func:`build_model` takes it.

    Raises:
        UserError: The model is unknown.
    """
    source = model_source(spec)
    if source is not None:
        return source.trained
    target, _ = registry.find(spec)
    return bool(getattr(unwrapped(target), "trained", isinstance(target, nn.Module)))


def says_if_trained(spec: str) -> bool:
    """Whether it is known without building a model whether its weights are trained.

    It is not for a class or a function of the user without an attribute ``trained``: it may load weights of its own.

    Args:
        spec: As :func:`build_model` takes it.

    Raises:
        UserError: The model is unknown.
    """
    if model_source(spec) is not None or registry.module_of(spec.partition(":")[0]) is not None:
        return True
    target = unwrapped(registry.find(spec)[0])
    return hasattr(target, "trained") or isinstance(target, nn.Module)


def example_images(shape: tuple[int, int, int]) -> Tensor:
    """Two fixed, different images to probe a model with.

    Args:
        shape: ``(C, H, W)``.

    Returns:
        ``(2, C, H, W)`` in [0, 1].
    """
    return torch.linspace(0, 1, 2 * math.prod(shape)).reshape(2, *shape)


@torch.no_grad()
def _first_not_finite(model: nn.Module, images: Tensor) -> str:
    """The first layer with NaN or +inf in its output, as the end of a message; empty if there is none."""
    layers: list[str] = []

    def record(name: str, layer: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not _is_number(output).all():
            layers.append(f", first in its layer {name} ({type(layer).__name__})")

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: record(name, layer, output))
        for name, layer in model.named_modules()
        if name
    ]
    try:
        with frozen(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return layers[0] if layers else ""


def are_probabilities(outputs: Tensor) -> bool:
    """Whether a model's outputs are probabilities.

    Args:
        outputs: ``(N, K)``.

    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[0.25, 0.7]]))
    (True, False)
    """
    in_range = ((outputs >= 0) & (outputs <= 1)).all()
    return bool(in_range and ((outputs.sum(dim=1) - 1).abs() < 1e-4).all())


def _is_number(values: Tensor) -> Tensor:
    """Whether values are neither NaN nor +inf; -inf masks a class."""
    return values < torch.inf


@torch.no_grad()
def check_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    classes: int | None = None,
    name: str = "the model",
) -> int:
    """Checks on some images that a model gives float logits ``(N, K)``.

    Args:
        model: It is in ``eval()`` mode during the check.
        images: ``(N, C, H, W)`` in [0, 1], on the model's device; a few are enough.
        labels: The labels of the evaluation, any number of them.
        classes: The expected K; any by default.
        name: The beginning of the message.

    Returns:
        K.

    Raises:
        OtherClassesError: K is not ``classes``.
        UserError: The model fails on the images; its output is not ``(N, K)`` floats with K at least 2; an output is NaN or
            +inf, or -inf for every class; the output is probabilities; or a label is outside [0, K).
    """
    with frozen(model):
        logits = checked_logits(model, images, classes=classes, name=name)
    outputs = logits.shape[1]
    if classes is not None and outputs != classes:
        raise OtherClassesError(
            f"{name} gives {outputs} logits an image, the data have {classes} classes: give it {classes} outputs",
            classes=outputs,
        )
    valid = _is_number(logits).all(dim=1) & (logits > -torch.inf).any(dim=1)
    if not valid.all():
        number = int((~valid).nonzero()[0])
        what = "NaN or infinite logits" if not _is_number(logits[number]).all() else "-inf for every class"
        raise UserError(
            f"{name} gives {what} for image {number}{_first_not_finite(model, images[number, None])}: "
            "check its weights and its normalization"
        )
    if are_probabilities(logits):
        raise UserError(f"{name} gives probabilities (each row sums to 1): give logits, remove the softmax")
    if labels is not None:
        require_classes(labels, outputs, name=name)
    return outputs

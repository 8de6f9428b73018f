"""Sources of networks: libraries and hubs that give a network by name, with published weights."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.weights.fill import LoadedWeights, fill, fits
from robustbench_cli.core.errors import UserError, one_line

__all__ = [
    "ModelSource",
    "bare_network",
    "config_for",
    "missing_class_names",
    "model_source",
    "not_downloaded",
    "own_model_for",
]


class ModelSource(ABC):
    """A network of a library or a hub, by its name: ``timm:resnet18``, or with weights ``timm:resnet18@a1_in1k``.

    A source is one file in ``models/``. Its libraries are imported when they are needed, not with its module.

    Attributes:
        prefix: What comes before the colon.
        form: What follows it, for messages.
        needs_class_names: Whether the network depends on the names of the classes.
        describes_files: Whether a file for this name must have the classes of the metadata (false: it may be fine-tuned).
        name: The name of the network, without the weights.
        weights: The name of its published weights; ``None`` if the user named none.
        config: What the network is built from besides its name: JSON that a checkpoint keeps. Empty for most sources.
    """

    prefix: ClassVar[str]
    form: ClassVar[str] = "NAME[@WEIGHTS]"
    needs_class_names: ClassVar[bool] = False
    describes_files: ClassVar[bool] = False

    def __init__(self, argument: str | None = None, *, config: Mapping[str, Any] | None = None) -> None:
        """Reads the name; no library and no network is asked yet.

        Args:
            argument: What follows the colon.
            config: The ``config`` that a checkpoint kept; ``None`` if the source has to find it.

        Raises:
            UserError: There is no name.
        """
        name, at, weights = (argument or "").partition("@")
        if not name or (at and not weights):
            raise UserError(f"model {self.prefix} needs a network's name: give {self.prefix}:{self.form}")
        self.name = name
        self.weights: str | None = weights or None
        self._config = config

    @property
    def trained(self) -> bool:
        """Whether the name comes with weights."""
        return self.weights is not None

    @property
    def spec(self) -> str:
        """The model's name with the weights in full, so that two ways to write it are one model."""
        return f"{self.prefix}:{self.name}" + ("" if self.weights is None else f"@{self.weights}")

    @property
    def config(self) -> dict[str, Any]:
        """See the class."""
        return dict(self._config or {})

    @property
    def fingerprint(self) -> str:
        """A text that changes when the weights change under the same name; nothing is downloaded twice for it."""
        return self.metadata.origin

    @property
    @abstractmethod
    def metadata(self) -> ModelMetadata:
        """What the source says of the weights; of a network without weights, what is known of its kind.

        Raises:
            UserError: The library is missing, the name is unknown, or the source cannot be reached.
        """

    @abstractmethod
    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        If the name comes with weights, it is the architecture that they are for: a checkpoint fills it again.

        Args:
            shape: ``(C, H, W)``.
            classes: K.

        Raises:
            UserError: The library is missing, the name is unknown, or the network does not take such images.
        """

    @abstractmethod
    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        """The network with its published weights, its own number of classes and without :class:`~.build.Normalize`.

        Args:
            shape: ``(C, H, W)`` of the images that it will be given.

        Raises:
            UserError: The library is missing, or the weights cannot be found, downloaded or read.
        """

    def from_file(
        self, tensors: Mapping[str, Tensor], path: Path, *, shape: tuple[int, int, int], classes: int
    ) -> tuple[nn.Module, LoadedWeights]:
        """The network with the weights of a file, without :class:`~.build.Normalize`.

        Args:
            tensors: As :func:`~robustbench_cli.benchmarks.weights.weights_file.read_tensors` returns them.
            path: The file.
            shape: ``(C, H, W)`` of the images.
            classes: K.

        Returns:
            The network, and what was loaded of the file.

        Raises:
            UserError: As :meth:`untrained`, or the file does not fit.
        """
        network = self.untrained(shape=shape, classes=classes)
        return network, fill(network, tensors, path, spec=self.spec)


def model_source(spec: str, *, config: Mapping[str, Any] | None = None) -> ModelSource | None:
    """The source behind a model's name; ``None`` for a model that is built from its own code.

    Args:
        spec: As :func:`~.build.build_model` takes it.
        config: See :class:`ModelSource`.

    Raises:
        UserError: The model is unknown, or the source needs a name.
    """
    target, argument = registry.find(spec)
    if inspect.isclass(target) and issubclass(target, ModelSource):
        return target(argument, config=config)
    return None


def bare_network(
    spec: str, *, shape: tuple[int, int, int], classes: int, config: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network of one of the project's own models with fresh weights, unchecked and without :class:`~.build.Normalize`.

    Args:
        spec: A model of the project, such as ``wrn-28-10:silu`` or ``torchvision:resnet50``.
        shape: ``(C, H, W)``.
        classes: K.
        config: See :class:`ModelSource`.

    Raises:
        UserError: The model is unknown, or does not take such images.
    """
    source = model_source(spec, config=config)
    if source is not None:
        return source.untrained(shape=shape, classes=classes)
    target, argument = registry.find(spec)
    network: nn.Module = target(shape=shape, classes=classes, **({} if argument is None else {"argument": argument}))
    return network


def own_model_for(tensors: Mapping[str, Tensor], *, shape: tuple[int, int, int], classes: int) -> str | None:
    """The name of the project's own model that weights fit; ``None`` if they fit none.

    Args:
        tensors: As :func:`~robustbench_cli.benchmarks.weights.weights_file.read_tensors` returns them.
        shape: ``(C, H, W)`` of the images.
        classes: K.
    """
    for name in registry.names():
        target = registry.find(name)[0] if registry.module_of(name) is not None else None
        if isinstance(target, type) and issubclass(target, nn.Module):
            # Only names and shapes are compared; a model may not take such images.
            with torch.device("meta"), suppress(UserError):
                if fits(target(shape=shape, classes=classes), tensors):
                    return name
    return None


def config_for(
    spec: str | None, *, class_names: Sequence[str] | None, data_names: Sequence[str] | None
) -> dict[str, Any]:
    """The ``config`` of a model that the user named.

    Args:
        spec: As :func:`~.build.build_model` takes it; ``None`` for the network that a folder of the Hub describes.
        class_names: The names of the classes that the user gave.
        data_names: Those of the data set, if it has names.

    Raises:
        UserError: The model depends on the names of the classes and there are none, or it does not and the user gave some.
    """
    target = registry.find(spec)[0] if spec is not None else None
    if inspect.isclass(target) and issubclass(target, ModelSource) and target.needs_class_names:
        names = class_names or data_names
        if names is None:
            raise missing_class_names(f"model {spec}")
        return {"class_names": list(names)}
    if class_names is not None:
        raise UserError(
            f"{'the model' if spec is None else f'model {spec}'} does not depend on the names of the classes: give none"
        )
    return {}


def missing_class_names(name: str) -> UserError:
    """The error of a model that depends on the names of the classes, where nobody gave them.

    Args:
        name: The model's name, for the message.
    """
    return UserError(f"{name} needs the names of the classes: give --class-names FILE, one name per line")


def not_downloaded(what: str, error: Exception, *, instead: str) -> UserError:
    """The error of a download that failed.

    Args:
        what: What was to be downloaded, for the message.
        error: What the library raised.
        instead: What the user can do without going online.
    """
    return UserError(f"{what} cannot be downloaded ({one_line(error)}): go online, or {instead}")

"""Networks that timm builds: by name for ``timm:``, by the configuration of a repository or of a folder for others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from robustbench_cli.benchmarks.datasets.base.choices import Interpolation
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.libraries import require_library

__all__ = ["TimmNetwork", "timm_library"]

_BUILDING = ("input_size", "fixed_input_size", "num_classes", "pool_size", "first_conv", "classifier")
"""The parts of timm's description on which the network itself depends."""

_LARGEST_SIDE = 1536
"""In pixels; the largest of timm's own weights is 1024. A first convolution's outputs take 1 GB at this side."""

_MOST_CLASSES = 1_000_000
"""ImageNet-21k has some 22,000. A last layer of 2,048 features takes 8 GB for a million."""

_LARGEST_ARGUMENT = 100_000
"""The largest number in a config, such as a width or a depth, and the largest sum of a list. Timm makes a list as long as the depth
before the first layer."""

_LONGEST_LIST = 100
"""The most items of a list in a network's arguments, such as the depths of its stages."""


def timm_library(needed_by: str) -> Any:
    """The library.

    Args:
        needed_by: The model, for the message.

    Raises:
        UserError: It is not installed.
    """
    return require_library("timm", extra="timm", needed_by=needed_by)


@dataclass(frozen=True)
class TimmNetwork:
    """An architecture of timm with what is known of its weights.

    Attributes:
        architecture: Its name in timm.
        pretrained_cfg: Timm's description of the weights: input size, normalization, number of classes.
        model_args: The arguments that the network is built with.
        label_names: The names of the classes; empty where nobody says.
    """

    architecture: str
    pretrained_cfg: Mapping[str, Any]
    model_args: Mapping[str, Any]
    label_names: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str) -> TimmNetwork:
        """The network that a ``config.json`` describes, as timm writes it.

        Args:
            config: The content of the file.
            where: The repository or the folder, for messages.

        Raises:
            UserError: It describes no network of timm.
        """
        architecture = config.get("architecture")
        if not isinstance(architecture, str):
            raise UserError(f"{where}: its config.json names no architecture of timm{_of_transformers(config)}")
        known = timm_library(where).list_models()
        if architecture not in known:
            raise UserError(
                f"{where} is a '{architecture}', which this timm does not have: {did_you_mean(architecture, known)}"
            )
        # Before timm 0.9 the description was not nested.
        pretrained_cfg = config.get("pretrained_cfg", config)
        model_args = config.get("model_args") or {}
        if not isinstance(pretrained_cfg, dict) or not isinstance(model_args, dict):
            raise UserError(f"{where}: pretrained_cfg and model_args in its config.json are no mappings: it is damaged")
        if max(_numbers(model_args), default=0) > _LARGEST_ARGUMENT:
            raise UserError(
                f"{where}: its config.json builds a network with the number {max(_numbers(model_args)):,}: it is damaged"
            )
        _require_short_lists(model_args, where)
        # The library's own arguments choose files and weights, which a file may not.
        forbidden = sorted(set(model_args) & _own_arguments(where))
        if forbidden:
            raise UserError(f"{where}: its config.json sets {', '.join(forbidden)}, which is no part of a network")
        names = config.get("label_names") or pretrained_cfg.get("label_names") or ()
        given = {key: config[key] for key in ("num_classes",) if key in config}
        return cls(
            architecture,
            {**pretrained_cfg, **given},
            model_args,
            tuple(str(name) for name in names) if isinstance(names, list | tuple) else (),
        )

    @property
    def full_config(self) -> dict[str, Any]:
        """All of it as JSON for :meth:`from_config`, with the normalization of its weights."""
        return {
            "architecture": self.architecture,
            "pretrained_cfg": dict(self.pretrained_cfg),
            "model_args": dict(self.model_args),
            "label_names": [*self.label_names],
        }

    @property
    def config(self) -> dict[str, Any]:
        """What the network is built from, as JSON for :meth:`from_config`; a license or a description is left out."""
        return {
            "architecture": self.architecture,
            "pretrained_cfg": {key: self.pretrained_cfg[key] for key in _BUILDING if key in self.pretrained_cfg},
            "model_args": dict(self.model_args),
        }

    def metadata(self, *, origin: str, where: str) -> ModelMetadata:
        """What is known of the weights.

        Args:
            origin: Where they come from.
            where: The model, for messages.

        Raises:
            UserError: The description has other values than timm writes.
        """
        cfg = self.pretrained_cfg
        try:
            channels, height, width = (int(size) for size in cfg.get("input_size", (3, 224, 224)))
            crop = float(cfg.get("crop_pct") or 1)
            mean, std = (None if cfg.get(key) is None else tuple(map(float, cfg[key])) for key in ("mean", "std"))
            classes = int(cfg["num_classes"]) if cfg.get("num_classes") is not None else None
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{where}: its config.json has a value that timm does not write ({error})") from None
        if not 0.01 <= crop <= 100:
            raise UserError(f"{where}: crop_pct {crop:g} in its config.json is not from 0.01 to 100")
        if max(height, width) > _LARGEST_SIDE or (classes or 0) > _MOST_CLASSES:
            raise UserError(
                f"{where}: its config.json has images of {height} x {width} and {classes} classes: at most "
                f"{_LARGEST_SIDE} pixels a side and {_MOST_CLASSES:,} classes are built"
            )
        if classes is not None and classes < 2:
            raise UserError(
                f"{where} has {classes} classes: its weights give features, so give one that is a classifier"
            )
        return ModelMetadata(
            classes=classes,
            class_names=self.label_names,
            channels=channels,
            mean=mean,
            std=std,
            image_size=(height, width),
            resize=math.floor(min(height, width) / crop),
            interpolation=_interpolation(cfg.get("interpolation")),
            origin=origin,
        )

    def build(
        self, *, shape: tuple[int, int, int], classes: int, state: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """The network.

        Args:
            shape: ``(C, H, W)``.
            classes: K.
            state: Weights in timm's own form, or in an original one that timm converts; fresh weights where ``None``.
        """
        timm = timm_library(f"timm:{self.architecture}")
        arguments = {**self.model_args, "num_classes": classes, "in_chans": shape[0]}
        if self.pretrained_cfg.get("fixed_input_size") and list(self.pretrained_cfg["input_size"])[1:] != [*shape[1:]]:
            # A transformer is built for one size; timm resamples the position embeddings of its weights.
            arguments["img_size"] = shape[1:]
        # Weights are passed in, so that timm neither looks for a file nor downloads one.
        overlay = None if state is None else {"state_dict": dict(state)}
        network: nn.Module = timm.create_model(
            self.architecture,
            pretrained=state is not None,
            pretrained_cfg=dict(self.pretrained_cfg),
            pretrained_cfg_overlay=overlay,
            **arguments,
        )
        return network


def _numbers(value: Any) -> Iterator[float]:
    """The absolute values of all numbers in JSON."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            yield from _numbers(item)
        elif isinstance(item, int | float):
            yield abs(item)


def _require_short_lists(value: Any, where: str) -> None:
    """Checks the lists in JSON: timm adds up the depths of the stages before the first layer.

    Raises:
        UserError: One is longer, or has a larger sum, than that of any network.
    """
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, list) and (len(item) > _LONGEST_LIST or not sum(_numbers(item)) <= _LARGEST_ARGUMENT):
            raise UserError(
                f"{where}: its config.json builds a network from a list of {len(item):,} items with the sum "
                f"{sum(_numbers(item)):,}: it is damaged"
            )
        if isinstance(item, dict | list):
            _require_short_lists(item, where)


def _interpolation(name: object) -> Interpolation:
    """Timm's filter; bicubic, its usual one, instead of those that Pillow has under other names or at random."""
    return next((known for known in get_args(Interpolation) if known == name), "bicubic")


def _own_arguments(where: str) -> set[str]:
    """The arguments of timm's functions that are not passed on to the network.

    One of them, ``pretrained_strict``, would leave weights that a file lacks at random.
    """
    timm = timm_library(where)
    functions = (timm.create_model, timm.models.build_model_with_cfg)
    parameters = [parameter for function in functions for parameter in inspect.signature(function).parameters.values()]
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    return names | {"features_only", "out_indices"}  # Taken out of the keywords: they build something else.


def _of_transformers(config: Mapping[str, Any]) -> str:
    """The end of a message for a network of another library."""
    names = config.get("architectures")
    if isinstance(names, list) and names:
        return (
            f"; it is a {names[0]!s:.80} of transformers: load it in a function of yours, and name that as "
            "--model path/to/file.py:function"
        )
    return ": download the folder, and give it as --checkpoint with the --model that it is"

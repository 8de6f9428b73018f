"""Torchvision's classification networks, by name, with its weights."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import nn

from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource, not_downloaded
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["Torchvision"]


class Torchvision(ModelSource):
    """A network of torchvision: ``torchvision:resnet18``, with weights ``torchvision:resnet18@IMAGENET1K_V1`` or ``@DEFAULT``.

    Torchvision's networks are made for images of 224 x 224, and their early strides stay for smaller images. If the images
    do not have three channels, the first convolution of a network without weights is replaced by one with their number of
    channels. Weights are kept in torch's own cache folder (``TORCH_HOME``).
    """

    prefix: ClassVar[str] = "torchvision"

    def __init__(self, argument: str | None = None, **keywords: Any) -> None:
        super().__init__(argument, **keywords)
        names = torchvision.models.list_models(module=torchvision.models)
        if self.name not in names:
            raise UserError(
                f"torchvision has no classification network '{self.name}': {did_you_mean(self.name, names)}"
            )
        if self.weights is not None:
            self.weights = self._published(self.weights.rpartition(".")[2]).name

    def _published(self, weights: str) -> Any:
        """A member of torchvision's enumeration of weights."""
        known = torchvision.models.get_model_weights(self.name)
        if weights not in known.__members__:
            hint = did_you_mean(weights, known.__members__)
            raise UserError(f"torchvision has no weights '{weights}' of {self.name}: {hint}")
        return known[weights]

    @cached_property
    def metadata(self) -> ModelMetadata:
        if self.weights is None:
            return ModelMetadata()
        weights = self._published(self.weights)
        preset = weights.transforms()
        return ModelMetadata(
            classes=len(weights.meta["categories"]),
            class_names=tuple(weights.meta["categories"]),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            image_size=(preset.crop_size[0], preset.crop_size[0]),
            resize=preset.resize_size[0],
            interpolation=preset.interpolation.value,
            origin=weights.url,
        )

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        # These two were ported from TensorFlow with their weights, and normalize as it does.
        ported = self.weights is not None and self.name in {"googlenet", "inception_v3"}
        keywords = {"transform_input": True, "init_weights": False} if ported else {}
        network: nn.Module = torchvision.models.get_model(self.name, weights=None, num_classes=classes, **keywords)
        if shape[0] != 3:
            _take_channels(network, shape[0])
        return network

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        assert self.weights is not None
        weights = self._published(self.weights)
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        try:
            # Torchvision compares a hash in the file's name when it downloads.
            state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
        except OSError as error:
            raise not_downloaded(weights.url, error, instead=f"put this file into {file.parent}") from None
        except Exception as error:
            raise UserError(f"{file} is cut off or damaged ({one_line(error)}): remove it and try again") from error
        network = self.untrained(shape=shape, classes=len(weights.meta["categories"]))
        network.load_state_dict(state)
        return network


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replaces the first convolution, in the order of registration, by one with ``channels`` input channels."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, attribute = name.rpartition(".")
    setattr(
        network.get_submodule(parent),
        attribute,
        nn.Conv2d(
            channels,
            first.out_channels,
            kernel_size=first.kernel_size,  # type: ignore[arg-type]
            stride=first.stride,  # type: ignore[arg-type]
            padding=first.padding,  # type: ignore[arg-type]
            dilation=first.dilation,  # type: ignore[arg-type]
            bias=first.bias is not None,
            padding_mode=first.padding_mode,
        ),
    )

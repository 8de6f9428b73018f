"""Torchvision's classification networks, by name."""

from __future__ import annotations

import torchvision
from torch import nn

from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["torchvision_model"]


def torchvision_model(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """A network of torchvision with fresh weights: ``torchvision:resnet18``.

    Torchvision's networks are made for images of 224 x 224, and their early strides stay for smaller images. If the images
    do not have three channels, the first convolution is replaced by one with their number of channels.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The network's name in torchvision.

    Raises:
        UserError: Torchvision has no classification network of this name.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if not argument:
        raise UserError("model torchvision needs a network's name: give torchvision:NAME, as in torchvision:resnet18")
    if argument not in names:
        raise UserError(f"torchvision has no classification network '{argument}': {did_you_mean(argument, names)}")
    network: nn.Module = torchvision.models.get_model(argument, weights=None, num_classes=classes)
    if shape[0] != 3:
        _take_channels(network, shape[0])
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

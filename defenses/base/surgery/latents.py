"""The latents of a network's layer, and a decoder from latents to images."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["Decoder", "Encoder", "decoder_parameters", "last_linear"]


class Encoder(nn.Module):
    """The latents of a network: what one of its layers computes, as one vector per image.

    Args:
        network: Images ``(N, C, H, W)`` to logits. It is not copied.
        layer: The name of a module in it, as in ``named_modules()``. Of several runs in a pass the last one counts.
        before: Whether the latent is the layer's first input, and not its output.
    """

    def __init__(self, network: nn.Module, layer: str, *, before: bool = False) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.before = before

    def forward(self, images: Tensor) -> Tensor:
        """The latents ``(N, d)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.captured(images)[-1]).flatten(1)

    def captured(self, images: Tensor) -> list[object]:
        """What each run of the layer took or gave, copied before a later layer can write into it.

        Args:
            images: ``(N, C, H, W)``.
        """
        values: list[object] = []

        def capture(value: object) -> None:
            values.append(value.clone() if isinstance(value, Tensor) else value)

        module = self.network.get_submodule(self.layer)
        if self.before:
            handle = module.register_forward_pre_hook(lambda _, inputs: capture(inputs[0] if inputs else None))
        else:
            handle = module.register_forward_hook(lambda _, __, output: capture(output))
        try:
            # A network may write into its input, and the images are compared with their reconstructions.
            self.network(images.clone())
        finally:
            handle.remove()
        return values

    @torch.no_grad()
    def width(self, example: Tensor, *, name: str) -> int:
        """The number d of features of a latent.

        Args:
            example: One image ``(1, C, H, W)`` in [0, 1].
            name: The parameter that names the layer, for the message.

        Raises:
            UserError: The network has no such layer, does not run it, or the layer gives no floating-point tensor with a row
                per image.
        """
        modules = [module for module, _ in self.network.named_modules() if module]
        if self.layer not in modules:
            raise UserError(f"{name} is '{self.layer}', no layer of the network: {did_you_mean(self.layer, modules)}")
        # Three images, because a leading dimension of 1 may have another meaning.
        with frozen(self.network):
            values = self.captured(example.repeat(3, 1, 1, 1))
        if not values:
            raise UserError(f"{name} is '{self.layer}', which the forward pass does not run: give a layer that it runs")
        latent = values[-1]
        if not isinstance(latent, Tensor):
            raise UserError(
                f"{name} is '{self.layer}', which gives a {type(latent).__name__}: give a layer whose output is one tensor"
            )
        if latent.dim() < 2 or len(latent) != 3:
            raise UserError(
                f"{name} is '{self.layer}', which gives {tuple(latent.shape)} for 3 images: give a layer with a row per image"
            )
        if not latent.is_floating_point():
            raise UserError(
                f"{name} is '{self.layer}', which gives {latent.dtype}: give a layer whose output has floating-point numbers"
            )
        return latent[0].numel()


def last_linear(network: nn.Module, example: Tensor) -> str | None:
    """The name of the linear layer that runs last, or ``None`` if none runs.

    Args:
        network: Images ``(N, C, H, W)`` to logits.
        example: One image ``(1, C, H, W)`` in [0, 1].

    >>> last_linear(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(1, 1, 2, 2))
    '3'
    """
    runs: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with frozen(network), torch.no_grad():
            network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return runs[-1] if runs else None


def decoder_parameters(features: int, shape: tuple[int, int, int], width: int) -> int:
    """How many weights the larger of the first two layers of a :class:`Decoder` has; the arguments are its own.

    >>> decoder = Decoder(64, (1, 8, 8), width=32)
    >>> decoder_parameters(64, (1, 8, 8), 32), decoder.linear.weight.numel(), decoder.conv1.weight.numel()
    (18432, 16384, 18432)
    """
    return max(features * math.prod(_coarse(shape, width)), 18 * width**2)


def _coarse(shape: tuple[int, int, int], width: int) -> tuple[int, int, int]:
    """The shape of the maps before the first upsampling."""
    return 2 * width, math.ceil(shape[1] / 4), math.ceil(shape[2] / 4)


class Decoder(nn.Module):
    """Latents to images: a linear layer to a quarter of the image's size, then two upsamplings with 3 x 3 convolutions.

    Args:
        features: d, the number of features of a latent.
        shape: ``(C, H, W)`` of the images.
        width: The number of channels before the last layer; twice as many before that.
    """

    def __init__(self, features: int, shape: tuple[int, int, int], *, width: int) -> None:
        super().__init__()
        self.shape = shape
        self.coarse = _coarse(shape, width)
        self.linear = nn.Linear(features, math.prod(self.coarse))
        self.conv1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """The images ``(N, C, H, W)`` in [0, 1] of latents ``(N, d)``."""
        maps = self.linear(latents).relu().unflatten(1, self.coarse)
        maps = self.conv1(functional.interpolate(maps, scale_factor=2)).relu()
        images: Tensor = self.conv2(functional.interpolate(maps, size=self.shape[1:])).sigmoid()
        return images

"""The latents of a network's layer, and a decoder from latents to images."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer

__all__ = ["Decoder", "Encoder", "decoder_parameters"]


class Encoder(nn.Module):
    """The latents of a network: what one of its layers computes, as one vector per image.

    Args:
        network: Images ``(N, C, H, W)`` to logits. It is not copied.
        layer: The layer in it. Of several runs in a pass the last one counts.
    """

    def __init__(self, network: nn.Module, layer: HiddenLayer) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """The latents ``(N, d)`` of images ``(N, C, H, W)``."""
        with self.layer.captured(self.network) as values:
            # A network may write into its input, and the images are compared with their reconstructions.
            self.network(images.clone())
        return cast("Tensor", values[-1]).flatten(1)

    def width(self, example: Tensor, *, name: str) -> int:
        """The number d of features of a latent.

        Args:
            example: One image ``(1, C, H, W)`` in [0, 1].
            name: The parameter that names the layer, for the message.

        Raises:
            UserError: See :meth:`~robustbench_cli.attacks.base.models.hidden_layer.HiddenLayer.width`.
        """
        return self.layer.width(self.network, example.repeat(3, 1, 1, 1), parameter=name)


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

"""JPEG compression of the images."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.transformed import Transformed

__all__ = ["JPEG"]

_BLOCK = 8


class JPEG(Defense):
    """JPEG compression and decompression of the images, before a model that is left as it is; no training.

    What is deployed is libjpeg's codec on 8-bit images, on the CPU whatever the device, so that an image is decoded to
    the same pixels everywhere. It has no gradient: every attack by gradients gets those of a differentiable JPEG in its
    place, whose steps are the codec's own but for a smooth rounding, and for the cut at black and white.

    Attacks that do not adapt stand beside those that do in ``--suite adaptive``.
    """

    paper: ClassVar[str] = (
        "Gintare Karolina Dziugaite, Zoubin Ghahramani, Daniel Roy, A Study of the Effect of JPG Compression on Adversarial "
        "Images, 2016, arXiv 1608.00853"
    )
    attacked_by: ClassVar[str] = (
        "the gradient of a differentiable JPEG in the place of the codec's, which has none (BPDA)"
    )

    quality: int = Field(75, ge=1, le=100, description="of the encoder; small numbers compress more")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        if example.shape[1] not in (1, 3):
            raise UserError(f"jpeg compresses images of 1 or 3 channels: these have {example.shape[1]}")
        return Transformed(Codec(self.quality), copy.deepcopy(model)).to(example.device)


class Codec(BPDALayer):
    """Images ``(N, C, H, W)``, C = 1 or 3, to what is left of them in a JPEG file; beyond [0, 1] they are cut.

    Args:
        quality: Of libjpeg, 1 to 100.
    """

    cosines: Tensor
    steps: Tensor

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality
        place = torch.arange(_BLOCK, dtype=torch.float64)
        cosines = torch.cos(math.pi * place[:, None] * (2 * place + 1) / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
        cosines[0] /= math.sqrt(2)
        # None of them is in the state dict: they follow from the quality.
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("steps", _quantisation(quality), persistent=False)

    def exact(self, given: Tensor) -> Tensor:
        levels = (given.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
        decoded = [np.asarray(_read(_written(image, self.quality))) for image in levels.squeeze(3).numpy()]
        return torch.from_numpy(np.stack(decoded)).view(levels.shape).permute(0, 3, 1, 2).to(given) / 255

    def surrogate(self, given: Tensor) -> Tensor:
        return self.coded(given, _rounded_smoothly)

    def coded(self, images: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        """The codec's steps in floating point, but that nothing is cut to [0, 1], before or after them.

        A cut has no slope at its ends, where many pixels of an image are: it would hide what changes them.

        Args:
            images: ``(N, C, H, W)``.
            rounded: Rounds the quantised coefficients.
        """
        levels = images * 255
        if images.shape[1] == 1:
            return self._quantised(levels, 0, rounded) / 255
        height, width = images.shape[2:]
        luma, chroma = _to_luma_and_chroma(levels)
        luma = self._quantised(luma, 0, rounded)
        # Colours have half the resolution; at an odd side the last pixel stands for the one that is missing.
        chroma = functional.avg_pool2d(_extended(chroma, 2), 2)
        chroma = self._quantised(chroma, 1, rounded)
        chroma = functional.interpolate(chroma, scale_factor=2.0, mode="bilinear")[:, :, :height, :width]
        return _to_colours(luma, chroma) / 255

    def _quantised(self, channels: Tensor, table: int, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        """Channels ``(N, C, H, W)`` of 0 to 255 after quantisation of the cosine transforms of their blocks."""
        height, width = channels.shape[2:]
        blocks = _extended(channels, _BLOCK).unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)
        coefficients = self.cosines @ (blocks - 128) @ self.cosines.T / self.steps[table]
        decoded = self.cosines.T @ (rounded(coefficients) * self.steps[table]) @ self.cosines + 128
        return decoded.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]

    def extra_repr(self) -> str:
        return f"quality={self.quality}"


def _quantisation(quality: int) -> Tensor:
    """The encoder's steps ``(2, 8, 8)``, of luma and chroma, as they stand in a file that it has written."""
    tables = _read(_written(np.zeros((_BLOCK, _BLOCK, 3), np.uint8), quality)).quantization
    return torch.tensor([tables[0], tables[1]], dtype=torch.float32).view(2, _BLOCK, _BLOCK)


def _written(levels: NDArray[np.uint8], quality: int) -> bytes:
    """The JPEG file of an image ``(H, W)`` or ``(H, W, 3)``."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return content.getvalue()


def _read(content: bytes) -> JpegImageFile:
    """The image in a JPEG file."""
    return JpegImageFile(io.BytesIO(content))


def _rounded_smoothly(values: Tensor) -> Tensor:
    """Nearer to the next whole number, with a slope of 1/2 there, of 3/2 in the middle between two, and of 1 on average.

    A slope of 0 at whole numbers, where most coefficients are that an image has none of, would hide how to bring them in.
    """
    return values - torch.sin(2 * math.pi * values) / (4 * math.pi)


def _extended(channels: Tensor, multiple: int) -> Tensor:
    """Channels whose sides are made multiples of a number, by repeating the last row and column."""
    height, width = channels.shape[2:]
    return functional.pad(channels, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _to_luma_and_chroma(colours: Tensor) -> tuple[Tensor, Tensor]:
    """RGB ``(N, 3, H, W)`` as Y ``(N, 1, H, W)`` and Cb, Cr ``(N, 2, H, W)`` of ITU-R BT.601, all from 0 to 255."""
    red, green, blue = colours.split(1, dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma, torch.cat([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1) + 128


def _to_colours(luma: Tensor, chroma: Tensor) -> Tensor:
    """The inverse of :func:`_to_luma_and_chroma`."""
    blue, red = (
        luma + scale * (part - 128) for scale, part in zip((1.772, 1.402), chroma.split(1, dim=1), strict=True)
    )
    return torch.cat([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue], dim=1)

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
    """JPEG compression and decompression of the images, in front of an unchanged model; no training.

    The deployed codec is libjpeg on 8-bit images. It always runs on the CPU, so an image gives the same pixels on every
    device. It has no gradient. Gradient attacks get the gradient of a differentiable JPEG instead (BPDA): the codec's own
    steps, but with a smooth rounding and without clipping to [0, 1].

    ``--suite adaptive`` shows non-adaptive and adaptive attacks side by side.
    """

    paper: ClassVar[str] = (
        "Gintare Karolina Dziugaite, Zoubin Ghahramani, Daniel Roy, A Study of the Effect of JPG Compression on Adversarial "
        "Images, 2016, arXiv 1608.00853"
    )
    attacked_by: ClassVar[str] = "the gradient of a differentiable JPEG instead of the codec, which has none (BPDA)"

    quality: int = Field(75, ge=1, le=100, description="JPEG quality; lower values compress more")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        if example.shape[1] not in (1, 3):
            raise UserError(f"jpeg needs images with 1 or 3 channels: these have {example.shape[1]}")
        return Transformed(Codec(self.quality), copy.deepcopy(model)).to(example.device)


class Codec(BPDALayer):
    """Encodes and decodes images ``(N, C, H, W)``, C = 1 or 3, as JPEG. Pixels are clipped to [0, 1].

    Args:
        quality: libjpeg's quality, 1 to 100.
    """

    cosines: Tensor
    steps: Tensor

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality
        index = torch.arange(_BLOCK, dtype=torch.float64)
        cosines = torch.cos(math.pi * index[:, None] * (2 * index + 1) / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
        cosines[0] /= math.sqrt(2)
        # Not in the state dict: both follow from the quality.
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("steps", _quantization_steps(quality), persistent=False)

    def exact(self, values: Tensor) -> Tensor:
        levels = (values.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
        decoded = [np.asarray(_decode(_encode(image, self.quality))) for image in levels.squeeze(3).numpy()]
        return torch.from_numpy(np.stack(decoded)).view(levels.shape).permute(0, 3, 1, 2).to(values) / 255

    def surrogate(self, values: Tensor) -> Tensor:
        return self.code(values, _round_smoothly)

    def code(self, images: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        """The codec's steps in floating-point arithmetic, without clipping to [0, 1].

        Many pixels of an image are 0 or 1. Clipping has no gradient there and would mask how to change them.

        Args:
            images: ``(N, C, H, W)``.
            rounding: Rounds the quantized coefficients.
        """
        levels = images * 255
        if images.shape[1] == 1:
            return self._quantize(levels, 0, rounding) / 255
        height, width = images.shape[2:]
        luma, chroma = _to_luma_and_chroma(levels)
        luma = self._quantize(luma, 0, rounding)
        # Chroma has half the resolution. An odd side is extended by repeating its last pixel.
        chroma = functional.avg_pool2d(_pad_to_multiple(chroma, 2), 2)
        chroma = self._quantize(chroma, 1, rounding)
        chroma = functional.interpolate(chroma, scale_factor=2.0, mode="bilinear")[:, :, :height, :width]
        return _to_rgb(luma, chroma) / 255

    def _quantize(self, channels: Tensor, table: int, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        """Quantizes the discrete cosine transforms of the blocks of channels ``(N, C, H, W)`` from 0 to 255."""
        height, width = channels.shape[2:]
        blocks = (
            _pad_to_multiple(channels, _BLOCK).unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)
        )
        coefficients = self.cosines @ (blocks - 128) @ self.cosines.T / self.steps[table]
        decoded = self.cosines.T @ (rounding(coefficients) * self.steps[table]) @ self.cosines + 128
        return decoded.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]

    def extra_repr(self) -> str:
        return f"quality={self.quality}"


def _quantization_steps(quality: int) -> Tensor:
    """The encoder's quantization steps ``(2, 8, 8)`` for luma and chroma, read from a file that it wrote."""
    tables = _decode(_encode(np.zeros((_BLOCK, _BLOCK, 3), np.uint8), quality)).quantization
    return torch.tensor([tables[0], tables[1]], dtype=torch.float32).view(2, _BLOCK, _BLOCK)


def _encode(levels: NDArray[np.uint8], quality: int) -> bytes:
    """The content of the JPEG file of an image ``(H, W)`` or ``(H, W, 3)``."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return content.getvalue()


def _decode(content: bytes) -> JpegImageFile:
    """The image in a JPEG file."""
    return JpegImageFile(io.BytesIO(content))


def _round_smoothly(values: Tensor) -> Tensor:
    """A smooth approximation of rounding: its slope is 1/2 at integers, 3/2 halfway between them, and 1 on average.

    The slope must not be 0 at integers: most coefficients of an image are 0, and an attack must be able to change them.
    """
    return values - torch.sin(2 * math.pi * values) / (4 * math.pi)


def _pad_to_multiple(channels: Tensor, multiple: int) -> Tensor:
    """Extends the sides of channels to multiples of a number by repeating the last row and column."""
    height, width = channels.shape[2:]
    return functional.pad(channels, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _to_luma_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Converts RGB ``(N, 3, H, W)`` to Y ``(N, 1, H, W)`` and Cb, Cr ``(N, 2, H, W)`` of ITU-R BT.601, from 0 to 255."""
    red, green, blue = rgb.split(1, dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma, torch.cat([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1) + 128


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """The inverse of :func:`_to_luma_and_chroma`."""
    blue, red = (
        luma + scale * (part - 128) for scale, part in zip((1.772, 1.402), chroma.split(1, dim=1), strict=True)
    )
    return torch.cat([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue], dim=1)

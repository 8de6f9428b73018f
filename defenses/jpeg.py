"""JPEG compression of the images."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import ClassVar

import torch
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

_EVEN = (
    (8192, 8192, 8192, 8192),
    (10703, 4433, -4433, -10703),
    (8192, -8192, -8192, 8192),
    (4433, -10704, 10704, -4433),
)
_ODD = (
    (11363, 9633, 6437, 2260),
    (9633, -2259, -11362, -6436),
    (6437, -11362, 2261, 9633),
    (2260, -6436, 9633, -11363),
)
"""The left halves of the even and the odd rows of libjpeg's cosine transform, in units of ``2**-13 / sqrt(8)``.

Each sums up one pass of ``jfdctint.c`` (Loeffler, Ligtenberg, Moschytz: Practical Fast 1-D DCT Algorithms with 11
Multiplications. ICASSP 1989), whose constants are rounded to 13 bits. The rounded steps of the inverse, ``jidctint.c``, sum
up to the transpose.
"""

_TO_LUMA_AND_CHROMA = ((19595, 38470, 7471, -8355840), (-11059, -21709, 32768, 32767), (32768, -27439, -5329, 32767))
_TO_RGB = ((65536, 0, 91881, 8421376), (65536, -22554, -46802, 8421376), (65536, 116130, 0, 8421376))
"""The color conversions of ``jccolor.c`` and ``jdcolor.c`` in units of ``2**-16``: a factor for each channel, and a summand.

Here luma and chroma are 128 lower than there.
"""

_TIES_AWAY = 1 + 2.0**-40
"""A quotient of integers times this is rounded to the same integer, but a tie away from 0."""


class JPEG(Defense):
    """JPEG compression and decompression of the images, in front of an unchanged model; no training.

    The deployed codec is libjpeg on 8-bit images, with its integer arithmetic bit by bit, so an image gives the same pixels
    on every device. It has no gradient. Gradient attacks get the gradient of a differentiable JPEG instead (BPDA): the
    codec's own steps, but with a smooth rounding and without clipping to [0, 1].

    ``--suite adaptive`` shows non-adaptive and adaptive attacks side by side.
    """

    paper: ClassVar[str] = (
        "Gintare Karolina Dziugaite, Zoubin Ghahramani, Daniel Roy, A Study of the Effect of JPG Compression on Adversarial "
        "Images, 2016, arXiv 1608.00853"
    )
    family: ClassVar[str] = "input-transformation"
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
    transform: Tensor
    to_luma_and_chroma: Tensor
    to_rgb: Tensor

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality
        index = torch.arange(_BLOCK, dtype=torch.float64)
        cosines = torch.cos(math.pi * index[:, None] * (2 * index + 1) / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
        cosines[0] /= math.sqrt(2)
        # Not in the state dict: both follow from the quality.
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("steps", _quantization_steps(quality), persistent=False)
        # Integers, which keep their values if the model changes its floating-point type.
        even, odd = torch.tensor(_EVEN), torch.tensor(_ODD)
        rows = torch.stack([torch.cat([even, even.flip(1)], 1), torch.cat([odd, -odd.flip(1)], 1)], 1).flatten(0, 1)
        self.register_buffer("transform", rows, persistent=False)
        self.register_buffer("to_luma_and_chroma", torch.tensor(_TO_LUMA_AND_CHROMA), persistent=False)
        self.register_buffer("to_rgb", torch.tensor(_TO_RGB), persistent=False)

    def exact(self, values: Tensor) -> Tensor:
        # All numbers are integers, or integers divided by a power of 2, and exact in float64.
        levels = (values.clamp(0, 1) * 255).round().double()
        return self._recoded(levels).to(values.dtype) / 255

    def _recoded(self, levels: Tensor) -> Tensor:
        """Encodes and decodes levels ``(N, C, H, W)`` from 0 to 255 as libjpeg does."""
        height, width = levels.shape[2:]
        if levels.shape[1] == 1:
            return self._recoded_plane(levels - 128, 0) + 128
        luma, chroma = _convert(levels, self.to_luma_and_chroma).split((1, 2), dim=1)
        # Columns are padded before chroma is halved, and rows afterwards.
        chroma = functional.pad(chroma, (0, -width % (2 * _BLOCK), 0, height % 2), mode="replicate")
        chroma = chroma[:, :, ::2] + chroma[:, :, 1::2]
        chroma = chroma[..., ::2] + chroma[..., 1::2]
        chroma[..., 0::2] += 1
        chroma[..., 1::2] += 2
        chroma = self._recoded_plane(chroma.mul_(0.25).floor_(), 1)[..., : (width + 1) // 2]
        chroma = _upsampled(chroma)[:, :, :height, :width]
        return _convert(torch.cat([self._recoded_plane(luma, 0), chroma], dim=1), self.to_rgb).clamp_(0, 255)

    def _recoded_plane(self, levels: Tensor, table: int) -> Tensor:
        """:meth:`_quantize` in libjpeg's arithmetic, of levels from -128 to 127, to which they are clipped."""
        height, width = levels.shape[2:]
        padded = _pad_to_multiple(levels, _BLOCK)
        steps = self.steps[table].double().repeat(padded.shape[2] // _BLOCK, padded.shape[3] // _BLOCK)
        transform = self.transform.double()
        coefficients = _transform_columns(_transform_rows(padded, transform, 11), transform, 15)
        # The transform's scale is 8.
        quantized = coefficients.mul_(_TIES_AWAY / 8 / steps).round_().mul_(steps)
        decoded = _transform_rows(_transform_columns(quantized, transform.T, 11), transform.T, 18)
        return decoded.clamp_(-128, 127)[:, :, :height, :width]

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
    content = io.BytesIO()
    Image.new("RGB", (_BLOCK, _BLOCK)).save(content, "JPEG", quality=quality)
    content.seek(0)
    tables = JpegImageFile(content).quantization
    return torch.tensor([tables[0], tables[1]], dtype=torch.float32).view(2, _BLOCK, _BLOCK)


def _transform_rows(values: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """The products of the matrix and each 8 pixels of a row, divided by ``2**bits`` and rounded."""
    products: Tensor = values.unflatten(3, (-1, _BLOCK)) @ (matrix.T * 2.0**-bits)
    return products.add_(0.5).floor_().flatten(3)


def _transform_columns(values: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """The products of the matrix and each 8 pixels of a column, divided by ``2**bits`` and rounded."""
    products: Tensor = (matrix * 2.0**-bits) @ values.unflatten(2, (-1, _BLOCK))
    return products.add_(0.5).floor_().flatten(2, 3)


def _convert(levels: Tensor, table: Tensor) -> Tensor:
    """Converts the colors of levels ``(N, 3, H, W)`` by an integer table ``(3, 4)``."""
    factors = table.double() * 2.0**-16
    return (factors[:, :3] @ levels.flatten(2)).add_(factors[:, 3:]).floor_().view_as(levels)


def _upsampled(chroma: Tensor) -> Tensor:
    """Doubles the sides by libjpeg's triangle filter (``h2v2_fancy_upsample`` in ``jdsample.c``)."""
    if chroma.shape[3] <= 2:
        return chroma.repeat_interleave(2, 2).repeat_interleave(2, 3)
    padded = functional.pad(chroma, (1, 1, 1, 1), mode="replicate")
    near, above, below = padded[:, :, 1:-1], padded[:, :, :-2], padded[:, :, 2:]
    rows = torch.stack([above, below], 3).add_(near.unsqueeze(3), alpha=3).flatten(2, 3)
    both = rows.new_empty(*rows.shape[:3], chroma.shape[3], 2)
    for side, (beside, summand) in enumerate(((rows[..., :-2], 8), (rows[..., 2:], 7))):
        # On a CPU far faster than an addition with an axis of length 2.
        torch.add(beside, rows[..., 1:-1], alpha=3, out=both[..., side]).add_(summand)
    return both.mul_(1 / 16).floor_().flatten(3)


def _round_smoothly(values: Tensor) -> Tensor:
    """A smooth approximation of rounding: its slope is 1/2 at integers, 3/2 halfway between them, and 1 on average.

    The slope must not be 0 at integers: most coefficients of an image are 0, and an attack must be able to change them.
    """
    return values - torch.sin(2 * math.pi * values) / (4 * math.pi)


def _pad_to_multiple(channels: Tensor, multiple: int) -> Tensor:
    """Extends the sides of channels to multiples of a number by repeating the last row and column."""
    height, width = channels.shape[2:]
    right, below = -width % multiple, -height % multiple
    # Padding by nothing would copy them.
    return functional.pad(channels, (0, right, 0, below), mode="replicate") if right or below else channels


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

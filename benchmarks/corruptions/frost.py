"""Frost."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base.color import luminance
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Family, Levels
from robustbench_cli.benchmarks.corruptions.base.filters import resize

__all__ = ["Frost"]

MIX: Levels[tuple[float, float]] = {
    "cifar": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "tiny-imagenet": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "imagenet": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}
"""The weights of the image and of the frost."""

SCALE: Levels[float] = {"cifar": (0.2,) * 5, "tiny-imagenet": (0.3,) * 5, "imagenet": (1.0,) * 5}
"""What the photographs of frost were reduced by."""


class _Photograph(NamedTuple):
    """The statistics of a photograph of frost.

    Attributes:
        quantiles: Of its luminance, at :data:`_PROBABILITIES`.
        slope: The power spectrum falls with the frequency to this power.
        red: The least-squares line of the red channel over the luminance: offset and slope.
        green: The line of the green channel.
        blue: The line of the blue channel.
    """

    quantiles: tuple[float, ...]
    slope: float
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_PROBABILITIES = (0.0005, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.9995)

_BRIGHT = _Photograph(
    (0.22, 0.588, 0.69, 0.757, 0.816, 0.864, 0.901, 0.942, 0.996), 1.67, (0.005, 0.974), (-0.005, 1.008), (0.016, 1.026)
)
_PHOTOGRAPHS = (
    _Photograph(
        (0.317, 0.384, 0.421, 0.455, 0.501, 0.554, 0.607, 0.674, 0.862),
        1.85,
        (-0.386, 1.358),
        (0.139, 0.876),
        (0.294, 0.7),
    ),
    _BRIGHT,
    # The second and the third photograph of the published code are one.
    _BRIGHT,
    _Photograph(
        (0.087, 0.353, 0.448, 0.518, 0.588, 0.654, 0.718, 0.843, 0.995),
        1.35,
        (-0.044, 0.994),
        (0.015, 0.996),
        (0.039, 1.038),
    ),
    _Photograph(
        (0.092, 0.187, 0.267, 0.349, 0.458, 0.583, 0.71, 0.879, 1.0),
        1.59,
        (-0.046, 1.023),
        (0.01, 0.996),
        (0.072, 0.959),
    ),
)
"""The five photographs that the published code chooses from, as the package imagecorruptions 1.1.2 has them.

The script ``tests/benchmarks/corruptions/frost_photographs.py`` measures them. The first and the last quantile are the minimum and the
maximum.
"""

_CROP_MEAN_STD = 0.34
"""Standard deviation of a crop's mean, relative to that of its pixels: the mean over the photographs, by the same script."""

_BLUR = 0.4
"""How much the photographs are blurred, in pixels: above some frequency their spectra fall faster."""


class Frost(Corruption):
    """Frost on a window.

    The published images mix photographs of frost into the image. Their license is not known, so this frost is synthetic:
    random fields with the luminance, the colors and the power spectrum of these photographs.
    """

    family: ClassVar[Family] = "weather"

    def run(self, images: Tensor, random: Random) -> Tensor:
        of_image, of_frost = self.level(MIX, images)
        height, width = images.shape[-2:]
        scale = self.level(SCALE, images)
        frost = _frost(len(images), (math.ceil(height / scale), math.ceil(width / scale)), random)
        frost = resize(frost, (height, width))
        return of_image * images + of_frost * (luminance(frost) if images.shape[1] == 1 else frost)


def _frost(count: int, size: tuple[int, int], random: Random) -> Tensor:
    """``(N, 3, H, W)`` in [0, 1]: a random field for each image, with the statistics of a random photograph."""
    kinds = random.integers(len(_PHOTOGRAPHS))
    slopes = torch.tensor([photograph.slope for photograph in _PHOTOGRAPHS], dtype=torch.float64)
    field = _field(size, slopes[kinds], random)
    knots = torch.special.ndtri(torch.tensor(_PROBABILITIES, dtype=torch.float64))
    position = field.clamp(knots[0], knots[-1])
    interval = torch.searchsorted(knots, position).clamp(1, len(knots) - 1)
    quantiles = torch.tensor([photograph.quantiles for photograph in _PHOTOGRAPHS], dtype=torch.float64)[kinds]
    flat = interval.flatten(1)
    low, high = (quantiles.gather(1, flat - shift).view_as(field) for shift in (1, 0))
    share = (position - knots[interval - 1]) / (knots[interval] - knots[interval - 1])
    grey = (low + share * (high - low))[:, None]
    lines = torch.tensor([(entry.red, entry.green, entry.blue) for entry in _PHOTOGRAPHS], dtype=torch.float64)[kinds]
    offset, slope = lines[..., None, None].unbind(2)
    frost: Tensor = (offset + slope * grey).clamp(0, 1)
    return frost


def _field(size: tuple[int, int], slopes: Tensor, random: Random) -> Tensor:
    """``(N, H, W)``: Gaussian random fields, standard normal over all fields.

    Args:
        size: H and W.
        slopes: ``(N,)``, the exponents of the power spectra.
        random: A stream for each field.
    """
    # Twice the size, so that the opposite edges of a field are not alike.
    height, width = 2 * size[0], 2 * size[1]
    rows, columns = torch.fft.fftfreq(height)[:, None].double(), torch.fft.rfftfreq(width).double()
    frequency = (rows**2 + columns**2).sqrt()
    frequency[0, 0] = 1
    amplitude = frequency ** (-slopes[:, None, None] / 2) * torch.exp(-2 * (math.pi * _BLUR * frequency) ** 2)
    amplitude[:, 0, 0] = 0
    # The frequencies of the inner columns count twice in a transform of real numbers.
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1
    power = (amplitude**2 * twice).sum(dim=(1, 2), keepdim=True) / (height * width)
    noise = torch.fft.rfft2(random.normal((height, width)).double())
    field: Tensor = torch.fft.irfft2(noise * amplitude / power.sqrt(), s=(height, width))[:, : size[0], : size[1]]
    mean = random.normal(())[:, None, None]
    return math.sqrt(1 - _CROP_MEAN_STD**2) * field + _CROP_MEAN_STD * mean

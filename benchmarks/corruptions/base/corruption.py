"""The base class of corruptions: how images are rounded, split into chunks and given their random numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.inputs import Images, checked_images, checked_keywords
from robustbench_cli.attacks.base.rng import Random, seed_from
from robustbench_cli.benchmarks.corruptions import registry
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings

__all__ = ["PAPER", "Corruption", "Family", "Levels", "Resolution", "corrupt", "rounded_down"]

PAPER = (
    "D. Hendrycks, T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR "
    "2019, arXiv 1903.12261"
)
"""The source of the corruptions and of their parameters."""

Family = Literal["noise", "blur", "weather", "digital"]
"""The families of the paper."""

Resolution = Literal["cifar", "tiny-imagenet", "imagenet"]
"""The data set whose published parameters an image gets, by its larger side."""

T = TypeVar("T")

Levels = Mapping[Resolution, Sequence[T]]
"""The published parameters of the five severities, for each resolution."""

_LARGEST: tuple[tuple[int, Resolution], ...] = ((48, "cifar"), (144, "tiny-imagenet"))
"""The largest side of an image for the parameters of a data set: the midpoints of 32 and 64, and of 64 and 224."""

_VALUES_AT_ONCE = 2**22
"""The most values of the images of a chunk; some ten tensors of their size are in memory."""

_ROUNDING = 1e-3
"""How far below a level a value counts as that level, in levels: 0.1 + 0.2 is not 0.3 in floating point."""


class Corruption(Settings, ABC):
    """Changes images as weather, a camera or a file format would, whatever the model.

    Each image is rounded to 8 bits before, and down to 8 bits after, as the images of the published data sets were. It has
    a stream of random numbers of its own. So an image is corrupted in the same way for any batch size and any number of
    images.

    Attributes:
        family: The family in the paper.
    """

    paper: ClassVar[str] = PAPER
    family: ClassVar[Family]

    severity: int = Field(ge=1, le=5, description="strength of the corruption; 1 is the weakest", strict=True)

    @abstractmethod
    def run(self, images: Tensor, random: Random) -> Tensor:
        """Corrupts images.

        Args:
            images: ``(N, C, H, W)``, float64, multiples of 1/255 in [0, 1]; C is 1 or 3.
            random: A stream of random numbers for each image.

        Returns:
            ``(N, C, H, W)``; the caller clips it to [0, 1] and rounds it.
        """

    def level(self, levels: Levels[T], images: Tensor) -> T:
        """The published parameters for the severity and for the size of some images.

        Args:
            levels: The parameters.
            images: ``(N, C, H, W)``.
        """
        side = max(images.shape[-2:])
        resolution: Resolution = "imagenet"
        for largest, name in reversed(_LARGEST):
            resolution = name if side <= largest else resolution
        return levels[resolution][self.severity - 1]

    def __call__(self, images: Images, *, seed: int = 0, indices: Tensor | None = None) -> Tensor:
        """Corrupts images on the CPU.

        Args:
            images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array; C is 1 or 3. They are left as they
                were.
            seed: The seed of the random numbers.
            indices: ``(N,)`` int64, a unique number per image; 0 to N - 1 by default.

        Returns:
            ``(N, C, H, W)``, float32, multiples of 1/255 in [0, 1], on the CPU.

        Raises:
            UserError: The images have another number of channels or an invalid pixel, or a user's own corruption returns
                something else than images.
        """
        clean = checked_images(images).cpu()
        if clean.shape[1] not in {1, 3}:
            raise UserError(f"the images have {clean.shape[1]} channels: corruptions are of images with 1 or 3")
        indices = torch.arange(len(clean)) if indices is None else indices
        seeds = seed_from(seed, "corruption", type(self).__name__, self.severity) + indices
        rows = max(1, _VALUES_AT_ONCE // clean[:1].numel())
        corrupted = torch.empty(clean.shape, dtype=torch.float32)
        with torch.no_grad():
            for start in range(0, len(clean), rows):
                chunk = slice(start, start + rows)
                levels = clean[chunk].double().mul(255).round().div(255)
                corrupted[chunk] = self._rounded(self.run(levels, Random(seeds[chunk])), levels)
        return corrupted

    def _rounded(self, corrupted: Tensor, images: Tensor) -> Tensor:
        """The corrupted images, clipped and rounded down to 8 bits.

        Raises:
            UserError: They have another shape, or a pixel is NaN.
        """
        if corrupted.shape != images.shape:
            raise UserError(
                f"{type(self).__name__} returned the shape {tuple(corrupted.shape)} for {tuple(images.shape)}: return an "
                "image for each image"
            )
        if corrupted.isnan().any():
            raise UserError(f"{type(self).__name__} returned NaN: every pixel must be a number")
        return rounded_down(corrupted.clamp(0, 1)).to(torch.float32)


def rounded_down(images: Tensor) -> Tensor:
    """Images rounded down to 8 bits, as NumPy converts floats to uint8.

    Args:
        images: Any shape, float64 in [0, 1].

    Returns:
        Multiples of 1/255.

    >>> rounded_down(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64)).mul(255).tolist()
    [76.0, 76.0]
    """
    return images.mul(255).add(_ROUNDING).floor() / 255


@checked_keywords
def corrupt(images: Images, name: str, *, severity: int, seed: int = 0) -> Tensor:
    """Corrupts images from Python.

    Args:
        images: See :meth:`Corruption.__call__`.
        name: The corruption: a name of ``advdef list corruptions``, or a user's own as ``path/to/file.py:object``.
        severity: Of 1 to 5.
        seed: The seed of the random numbers.

    Returns:
        See :meth:`Corruption.__call__`.

    Raises:
        UserError: The name is unknown, the severity is not allowed, or the images are not.

    >>> images = torch.full((1, 3, 32, 32), 0.5)
    >>> corrupt(images, "brightness", severity=5)[0, 0, 0, 0].item()  # CIFAR-10-C adds 0.3 at severity 5
    0.800000011920929
    """
    kind: type[Corruption] = registry.load(name)
    return kind.from_parameters({"severity": severity}, name=name)(images, seed=seed)

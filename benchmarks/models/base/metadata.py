"""What the source of a network's weights says of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeVar

from robustbench_cli.benchmarks.datasets.base.choices import Interpolation
from robustbench_cli.benchmarks.datasets.base.preprocessing import Shape, size_options
from robustbench_cli.core.errors import Choice, Notice

__all__ = ["ModelMetadata"]

Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What the source of weights says of the images and the classes that they were trained for.

    Attributes:
        classes: K; ``None`` for weights that fit any number.
        class_names: The names of the classes, in order; empty where the source has none.
        channels: C.
        mean: Mean of the normalization that the network expects, per channel; ``None`` if the source names none.
        std: Standard deviation of that normalization.
        normalizes: Whether the network normalizes the images itself.
        image_size: ``(H, W)`` of the images; ``None`` if the source names no size.
        resize: The length in pixels to which the shorter side of an image is resized before its center is cropped.
        interpolation: Of this resizing: ``bilinear``, ``bicubic`` or ``nearest``.
        origin: Where the weights come from: a file, a URL, or a repository with its commit.
    """

    classes: int | None = None
    class_names: tuple[str, ...] = ()
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalizes: bool = False
    image_size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: Interpolation | None = None
    origin: str = ""

    def normalization(
        self, mean: Given | None, std: Given | None
    ) -> tuple[Given | tuple[float, ...] | None, Given | tuple[float, ...] | None]:
        """The mean and the standard deviation to use: the user's if any is given, else those of the weights.

        Args:
            mean: The user's.
            std: The user's.
        """
        return (self.mean, self.std) if mean is None and std is None else (mean, std)

    def note_assumptions(
        self, name: str, *, shape: Shape, classes: int, normalization_is_given: bool, size_is_chosen: bool
    ) -> None:
        """Tells the user in one line what runs and what is assumed of the images.

        Args:
            name: The model's name.
            shape: See :meth:`assumptions`.
            classes: See :meth:`assumptions`.
            normalization_is_given: See :meth:`assumptions`.
            size_is_chosen: Whether the user chose the size. If not, another size than that of the weights is a warning.
        """
        line = self.assumptions(shape=shape, classes=classes, normalization_is_given=normalization_is_given)
        is_a_choice = not size_is_chosen and self.image_size not in {None, shape[1:]}
        warnings.warn(f"{name}: {line}", Choice if is_a_choice else Notice, stacklevel=4)

    def assumptions(self, *, shape: Shape, classes: int, normalization_is_given: bool) -> str:
        """What runs and what is assumed of the images, as the end of a one-line message.

        Args:
            shape: ``(C, H, W)`` of the images that the network gets.
            classes: K of the network.
            normalization_is_given: Whether the user gave a mean and a standard deviation.

        >>> ModelMetadata(mean=(0.5,), std=(0.25,)).assumptions(shape=(1, 8, 8), classes=10, normalization_is_given=False)
        '10 classes, images of 8 x 8, normalized by mean 0.5 and std 0.25'
        """
        parts = [f"{classes:,} classes", f"images of {shape[1]} x {shape[2]}"]
        if self.image_size not in {None, shape[1:]}:
            options = size_options((shape[0], *self.image_size), shape)
            parts[-1] += f" (the weights are for {self.image_size[0]} x {self.image_size[1]}: give {options} to resize)"
        if normalization_is_given:
            parts.append("normalized by the given mean and std")
        elif self.mean is not None and self.std is not None:
            mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
            parts.append(f"normalized by mean {mean} and std {std}")
        elif self.normalizes:
            parts.append("normalized by the network itself")
        else:
            parts.append("no normalization known, so none is applied: give --mean and --std if training used one")
        return ", ".join(parts) + (f"; weights: {self.origin}" if self.origin else "")

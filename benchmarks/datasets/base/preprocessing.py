"""Brings images of any size to one size, as torchvision does with Pillow images: resize, center crop, channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from robustbench_cli.benchmarks.datasets.base.choices import Channels, Crop, Interpolation
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "LUMA",
    "MOST_VALUES",
    "UNCHANGED",
    "Preprocessing",
    "Shape",
    "size_hint",
    "size_options",
]

Shape = tuple[int, int, int]
"""``(C, H, W)``."""

Array = np.ndarray[Any, np.dtype[Any]]

MOST_VALUES = 2**24
"""The most values of an image with three channels; a checkpoint allows no larger shape either."""

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the luma of ITU-R BT.601, as in Pillow's mode L."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input of the model.

    With ``resize``, the shorter side gets this length; then ``image_size`` is cut out of the center. Without it, the
    shorter side gets just the length that the crop needs. With ``crop="none"`` the whole image is scaled to
    ``image_size``, whatever its proportions. Pillow's filters are used, which smooth an image before it shrinks
    (antialiasing), except for ``nearest``. So the result equals torchvision's ``Resize`` and ``CenterCrop`` on Pillow
    images.

    Attributes:
        image_size: ``(H, W)`` of the result; ``None`` keeps what ``resize`` gives.
        resize: The length of the shorter side before the crop, in pixels.
        crop: ``center``, or ``none``.
        interpolation: The filter.
        channels: 3 repeats the channel of gray images; 1 makes color images gray; ``None`` keeps the channels.
    """

    image_size: tuple[int, int] | None = None
    resize: int | None = None
    crop: Crop = "center"
    interpolation: Interpolation = "bilinear"
    channels: Channels | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Self:
        """Reads the options as a user gives them: numbers, or text such as ``"224"`` and ``"224x320"``.

        Args:
            options: By the names of the attributes.

        Raises:
            UserError: A value is not allowed, or an option has no meaning without another one.
        """
        image_size = _size(options["image_size"]) if "image_size" in options else None
        resize = _length("resize", options["resize"]) if "resize" in options else None
        crop: Crop = _choice("crop", options.get("crop", "center"), get_args(Crop))
        interpolation = _choice("interpolation", options.get("interpolation", "bilinear"), get_args(Interpolation))
        channels = _choice("channels", options["channels"], get_args(Channels)) if "channels" in options else None
        if "crop" in options and image_size is None:
            raise UserError(f"crop={crop} has no meaning without an image size: give image_size too")
        if "interpolation" in options and image_size is None and resize is None:
            raise UserError(
                f"interpolation={interpolation} has no meaning where nothing is resized: give image_size too"
            )
        if resize is not None and crop == "none" and image_size is not None:
            raise UserError("crop=none scales images straight to image_size: leave out resize, or crop=none")
        if resize is not None and image_size is not None and resize < min(image_size):
            raise UserError(
                f"resize={resize} is less than image_size={_text(image_size)}, so the crop would reach beyond the image: "
                f"give at least {min(image_size)}"
            )
        return cls(image_size=image_size, resize=resize, crop=crop, interpolation=interpolation, channels=channels)

    @property
    def options(self) -> dict[str, str]:
        """The options that differ from the default, as text: what :meth:`from_options` reads."""
        texts: dict[str, str] = {"crop": self.crop, "interpolation": self.interpolation}
        if self.image_size is not None:
            texts["image_size"] = _text(self.image_size)
        if self.resize is not None:
            texts["resize"] = str(self.resize)
        if self.channels is not None:
            texts["channels"] = str(self.channels)
        defaults = {"crop": "center", "interpolation": "bilinear"}
        return {key: text for key, text in texts.items() if defaults.get(key) != text}

    @property
    def resizes(self) -> bool:
        """Whether it changes the size of images."""
        return self.image_size is not None or self.resize is not None

    def shape(self, shape: Shape) -> Shape:
        """The shape of what becomes of an image ``(C, H, W)``.

        Args:
            shape: Of the image.

        Raises:
            UserError: See :meth:`resized`.
        """
        channels, height, width = shape
        channels = self.channels or channels
        size = self._resized_size(height, width)
        return (channels, *(self.image_size or size))

    def picture(self, image: Image.Image) -> Array:
        """An RGB or gray picture as pixels.

        Args:
            image: Of mode RGB or L.

        Returns:
            ``(C, H, W)``, uint8.

        Raises:
            UserError: See :meth:`resized`.
        """
        if self.channels is not None:
            image = image.convert("RGB" if self.channels == 3 else "L")
        pixels = np.asarray(self.resized(image))
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]

    def array(self, image: Array) -> Array:
        """An image of floats.

        Args:
            image: ``(C, H, W)``, float32 in [0, 1].

        Returns:
            ``(C, H, W)``, float32 in [0, 1].

        Raises:
            UserError: See :meth:`resized`.
        """
        if self.resizes:
            from PIL import Image

            # Bicubic interpolation overshoots at edges.
            channels = [np.asarray(self.resized(Image.fromarray(channel))) for channel in image]
            image = np.stack(channels).clip(0, 1)
        if self.channels == 1 and len(image) == 3:
            image = np.tensordot(np.array(LUMA, dtype=image.dtype), image, 1)[None].clip(0, 1)
        elif self.channels == 3 and len(image) == 1:
            image = np.repeat(image, 3, axis=0)
        return image

    def resized(self, image: Image.Image) -> Image.Image:
        """A picture after resize and crop, in its own mode.

        Args:
            image: The picture.

        Raises:
            UserError: The crop would reach beyond the picture, or the resized picture would be too large.
        """
        height, width = self._resized_size(image.height, image.width)
        if (height, width) != (image.height, image.width):
            from PIL import Image

            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.image_size is None or self.image_size == (height, width):
            return image
        rows, columns = self.image_size
        # torchvision's center_crop, where round() takes halves to even numbers.
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        return image.crop((left, top, left + columns, top + rows))

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """The size ``(H, W)`` of an image before the crop; the longer side is rounded down, as by torchvision."""
        if self.image_size is not None and self.crop == "none":
            return self.image_size
        if self.resize is not None:
            rows = columns = self.resize
        elif self.image_size is not None:
            rows, columns = self.image_size
        else:
            return height, width
        # The smallest size of these proportions that covers rows x columns.
        size = (
            (height * columns // width, columns) if columns * height >= rows * width else (rows, width * rows // height)
        )
        if 3 * size[0] * size[1] > MOST_VALUES:
            raise UserError(
                f"is {width} x {height} and would become {size[1]} x {size[0]}: an image may have {MOST_VALUES // 3:,} pixels"
            )
        if self.image_size is not None and (size[0] < self.image_size[0] or size[1] < self.image_size[1]):
            raise UserError(
                f"is {size[1]} x {size[0]} after resize={self.resize}, smaller than image_size={_text(self.image_size)}: "
                "leave out resize"
            )
        return size


UNCHANGED = Preprocessing()
"""Leaves images as they are."""


def size_hint(model: Shape, data: Shape) -> str:
    """The :func:`size_options` as the end of a message, after a comma; empty where there are none.

    Args:
        model: The shape that the model takes.
        data: The shape of the data set's images.

    >>> size_hint((3, 32, 32), (1, 28, 28))
    ', or bring the images to it with --channels 3 --image-size 32'
    """
    options = size_options(model, data)
    return options and f", or bring the images to it with {options}"


def size_options(model: Shape, data: Shape) -> str:
    """The options that bring images to a model's shape; empty where none do.

    Args:
        model: The shape that the model takes.
        data: The shape of the data set's images.

    >>> size_options((3, 32, 32), (1, 28, 28))
    '--channels 3 --image-size 32'
    >>> size_options((5, 8, 8), (1, 8, 8))
    ''
    """
    options = []
    if model[0] != data[0]:
        if model[0] not in get_args(Channels) or data[0] not in get_args(Channels):
            return ""
        options.append(f"--channels {model[0]}")
    if model[1:] != data[1:]:
        options.append(f"--image-size {_text(model[1:])}")
    return " ".join(options)


def _text(size: tuple[int, int]) -> str:
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def _size(value: object) -> tuple[int, int]:
    """Reads ``224``, ``"224"``, ``"224x320"`` or ``(224, 320)``."""
    parts = value if isinstance(value, tuple | list) else str(value).lower().split("x")
    try:
        height, width = (_length("image_size", part) for part in (parts if len(parts) == 2 else [*parts, *parts]))
    except ValueError:
        raise UserError(f"image_size is {value!r:.80}: give pixels, as 224 or HEIGHTxWIDTH") from None
    if 3 * height * width > MOST_VALUES:
        raise UserError(f"image_size is {value!r:.80}: an image may have {MOST_VALUES // 3:,} pixels")
    return height, width


def _length(key: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise UserError(f"{key} is {value!r:.80}: give pixels, a whole number of at least 1, such as 224")
    return int(text)


def _choice(key: str, value: object, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if str(choice) == str(value):
            return choice
    raise UserError(f"{key} is {value!r:.80}: give {' or '.join(map(str, choices))}")

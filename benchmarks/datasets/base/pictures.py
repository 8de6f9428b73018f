"""Data sets of image files, which are decoded when they are needed, by several threads."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, get_args

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.choices import OnBadImage
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.preprocessing import MOST_VALUES, UNCHANGED, Preprocessing, Shape
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.core.cores import usable_cores
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.regular_file import open_regular

__all__ = ["FORMATS", "Example", "ImageFile", "Picture", "PictureSplit", "Pictures", "class_count", "shuffled"]

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")
"""The formats that are opened, by the content of a file. Others run programs (PostScript), or are no pictures."""

MOST_PIXELS = 2**26
"""The most pixels of an image that is resized; the largest of ImageNet has 61 million."""

MOST_THREADS = 16
"""The most threads that decode, each of which may hold a large image."""

Array = np.ndarray[Any, np.dtype[Any]]


class Picture(Protocol):
    """An image file on disk or in an archive; ``str()`` names it in messages."""

    def open(self) -> IO[bytes]:
        """Opens the file."""


Example = tuple[Picture, int]
"""A picture and its label."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file on the disk."""

    path: str

    def __str__(self) -> str:
        return self.path

    def open(self) -> IO[bytes]:
        """Opens the file; a pipe or a device is refused."""
        return open_regular(self.path)


class BadImageError(UserError):
    """A file that cannot be used as an image."""


class Pictures(Dataset):
    """Image files of any size, read as RGB.

    A subclass sets ``classes`` and ``shape`` in its ``__init__``; :meth:`shape_of` helps with the shape.

    Attributes:
        preprocessing: What brings the images to one size.
        on_bad_image: Whether an image that cannot be read is an error (``stop``) or is left out (``skip``).
    """

    any_size: ClassVar[bool] = True

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
    ) -> None:
        super().__init__(argument, data_dir=data_dir)
        if on_bad_image not in get_args(OnBadImage):
            raise UserError(f"on_bad_image is '{on_bad_image}': give {' or '.join(get_args(OnBadImage))}")
        self.preprocessing = preprocessing
        self.on_bad_image = on_bad_image

    @abstractmethod
    def examples(self, name: SplitName) -> Sequence[Example]:
        """The pictures of a split and their labels, at least one, always in the same order.

        Args:
            name: The split.

        Raises:
            UserError: There is no such split.
        """

    def shape_of(self, examples: Sequence[Example]) -> Shape:
        """The shape of all images; without an image size in the preprocessing, the first image is read for it.

        Args:
            examples: Those of the test split.

        Raises:
            UserError: The image cannot be read.
        """
        if self.preprocessing.image_size is not None:
            return (self.preprocessing.channels or 3, *self.preprocessing.image_size)
        with _pillow_silent():
            for picture, _ in examples:
                try:
                    channels, height, width = _read(picture, self.preprocessing).shape
                except BadImageError:
                    if self.on_bad_image == "stop" or picture is examples[-1][0]:
                        raise
                else:
                    return channels, height, width
        raise AssertionError

    def load(self, name: SplitName) -> Split:
        split = PictureSplit(self.examples(name), shape=self.shape, owner=self)
        # Training takes images in any order, so it needs to know at once which ones are left out.
        return split.readable() if name == "train" and self.on_bad_image == "skip" else split


class PictureSplit(Split):
    """Image files that are decoded when they are needed.

    Args:
        examples: The pictures and their labels.
        shape: ``(C, H, W)`` of all images after the preprocessing.
        owner: Its data set.
    """

    def __init__(self, examples: Sequence[Example], *, shape: Shape, owner: Pictures) -> None:
        super().__init__(torch.tensor([label for _, label in examples], dtype=torch.int64))
        self._examples = examples
        self._shape = shape
        self._owner = owner
        self._first: tuple[Tensor, Tensor] | None = None

    def images(self, indices: Tensor) -> Tensor:
        images, errors = self._decoded(indices.tolist(), skip=False)
        assert not any(errors)
        return images

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first ``n`` images and their labels; those of the last call are not decoded again.

        Args:
            n: The number of images, at least 1. With ``on_bad_image="skip"``, images that cannot be read do not count.

        Raises:
            UserError: An image cannot be read, or has another size; or no image at all can be read.
        """
        if self._first is None or len(self._first[1]) < min(n, len(self)):
            skip = self._owner.on_bad_image == "skip"
            self._first = self._first_readable(n) if skip else self.batch(torch.arange(min(n, len(self))))
        images, labels = self._first
        return images[:n], labels[:n]

    def readable(self) -> PictureSplit:
        """The images that can be read; each one is decoded once to find out."""
        errors = [error for rows in self._chunks(len(self)) for error in self._decoded(rows, skip=True)[1]]
        examples = [example for example, error in zip(self._examples, errors, strict=True) if error is None]
        self._report([error for error in errors if error is not None])
        readable = PictureSplit(examples, shape=self._shape, owner=self._owner)
        readable.left_out = self.left_out
        return readable

    def _first_readable(self, n: int) -> tuple[Tensor, Tensor]:
        """The first images that can be read, and their labels; at most ``n``."""
        images, labels, errors = [], [], []
        missing, position = n, 0
        while missing and position < len(self):
            rows = range(position, min(position + missing, len(self)))
            chunk, faults = self._decoded(rows, skip=True)
            good = torch.tensor([fault is None for fault in faults])
            images.append(chunk[good])
            labels.append(self.labels[rows.start : rows.stop][good])
            errors += [fault for fault in faults if fault is not None]
            missing, position = missing - int(good.sum()), rows.stop
        self._report(errors)
        return torch.cat(images), torch.cat(labels)

    def _report(self, errors: Sequence[BadImageError]) -> None:
        """Notes how many images are left out, and which one is the first."""
        if len(errors) == len(self):
            raise errors[0]
        if errors:
            number = "one image" if len(errors) == 1 else f"{len(errors):,} images"
            self.left_out = f"{self._owner.name}: {number} left out, the first one: {errors[0]}"

    def _chunks(self, number: int) -> Iterator[range]:
        """Ranges of positions that are decoded together."""
        for start in range(0, number, 256):
            yield range(start, min(start + 256, number))

    def _decoded(self, positions: Sequence[int], *, skip: bool) -> tuple[Tensor, list[BadImageError | None]]:
        """Decodes pictures in several threads; Pillow decodes and resizes without Python's lock.

        Args:
            positions: Of the pictures.
            skip: Whether pictures that cannot be read leave their row undefined; otherwise they are an error.

        Returns:
            ``(B, C, H, W)``, float32 in [0, 1]; and the fault of each picture.
        """
        images = np.empty((len(positions), *self._shape), dtype=np.float32)

        def decode(row: int) -> BadImageError | None:
            try:
                np.divide(self._pixels(positions[row]), np.float32(255), out=images[row])
            except BadImageError as error:
                if not skip:
                    raise
                return error
            return None

        with _pillow_silent():
            if len(positions) == 1:
                return torch.from_numpy(images), [decode(0)]
            with ThreadPoolExecutor(min(usable_cores(), MOST_THREADS)) as threads:
                return torch.from_numpy(images), list(threads.map(decode, range(len(positions))))

    def _pixels(self, position: int) -> Array:
        """A picture after the preprocessing: ``(C, H, W)``, uint8."""
        picture, _ = self._examples[position]
        pixels = _read(picture, self._owner.preprocessing)
        if pixels.shape != self._shape:
            raise UserError(
                f"{picture} is {_size(pixels.shape)}, and other images of {self._owner.name} are {_size(self._shape)}: "
                "bring them to one size with --image-size, such as --image-size 224"
            )
        return pixels


def class_count(text: str | None) -> int | None:
    """Reads the option ``classes``, the number of classes.

    Args:
        text: As the user wrote it.

    Raises:
        UserError: It is no whole number of at least 2.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 2):
        raise UserError(f"classes is '{text[:80]}': give the number of classes, at least 2")
    return int(text)


def shuffled(examples: Sequence[Example]) -> list[Example]:
    """Examples in an order that depends only on their number.

    Files are sorted by class, and the evaluated images are the first ones: they must be of all classes.

    Args:
        examples: In the order of the files.
    """
    return [examples[index] for index in np.random.RandomState(0).permutation(len(examples))]


@contextmanager
def _pillow_silent() -> Iterator[None]:
    """Hides Pillow's warnings, which are of faults that are refused, or in unused parts of a file.

    The filter is that of the process: it is set once around several threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(picture: Picture, preprocessing: Preprocessing) -> Array:
    """Reads a picture and preprocesses it: ``(C, H, W)``, uint8."""
    most = MOST_PIXELS if preprocessing.resizes else MOST_VALUES // 3
    try:
        with picture.open() as file, Image.open(file, formats=FORMATS) as image:
            # Nothing is decoded before its size and its kind are known.
            fault = _fault(image, most)
            if not fault:
                fault = "has transparent pixels: save it on a background" if _transparent(image) else ""
            rgb = None if fault else image.convert("RGB")
    except UnidentifiedImageError:
        fault = f"cannot be read as an image: save it as one of {', '.join(FORMATS)}, or remove it"
    except Image.DecompressionBombError:
        fault = f"has too many pixels: an image may have {most:,}, resize it first"
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        fault = f"cannot be read as an image ({one_line(error)}): replace or remove it"
    if fault:
        raise BadImageError(f"{picture} {fault}")
    assert rgb is not None
    try:
        return preprocessing.picture(rgb)
    except UserError as error:
        raise UserError(f"{picture} {error}") from None


def _fault(image: Image.Image, most: int) -> str:
    """Why an image of at most ``most`` pixels cannot be used, before it is decoded; empty if it can."""
    width, height = image.size
    if width * height > most:
        return f"has {width} x {height} pixels: an image may have {most:,}, resize it first"
    # A color image of 16 bits has the mode of one of 8 bits; only the arguments of its decoder differ.
    decoder_arguments = [
        tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in getattr(image, "tile", ())
    ]
    deep = any(
        (isinstance(argument, str) and ";16" in argument)
        or (image.format == "PPM" and isinstance(argument, int) and argument > 255)
        for arguments in decoder_arguments
        for argument in arguments
    )
    if deep or image.mode.startswith(("I", "F")):
        return f"has more than 8 bits a channel ({image.mode}): save it with 8, or give npz:PATH"
    # The second picture of a camera's MPO file is a preview.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        return f"holds {frames} pictures: save each in a file of its own"
    return ""


def _transparent(image: Image.Image) -> bool:
    """Whether a pixel is transparent: a model would not see the background."""
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return float(lowest) < 255  # type: ignore[arg-type]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]} x {shape[-2]}"

"""A user's own images, one folder per class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes
from torchvision.transforms.functional import pil_to_tensor

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.regular import open_regular
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["ImageFolder"]

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")
"""The formats that are opened, by the content of a file. Others run programs (PostScript), or are no pictures."""

MOST_VALUES = 2**24
"""The most values of an image with three channels; a checkpoint allows no larger shape either."""


class ImageFolder(Dataset):
    """Image files in one folder per class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``PATH/val``).

    If ``PATH`` itself has the class folders, all images are the test split, and there is no train split. The classes are
    the names of the folders in sorted order. The files are shuffled in an order that depends only on their number. Images
    are read on demand, as RGB, and all must have one size.
    """

    argument_name: ClassVar[str | None] = "PATH"

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        super().__init__(argument, data_dir=data_dir)
        path = Path(argument or "").expanduser()
        self._folders = _folders(path)
        names = _classes(self._folders["test"])
        self.classes = len(names)
        if "train" in self._folders:
            differences = set(names) ^ set(_classes(self._folders["train"]))
            if differences:
                raise UserError(
                    f"the class folders of {self._folders['train']} and {self._folders['test']} differ "
                    f"({', '.join(sorted(differences)[:3])}): give both the same"
                )
        self._reference = _samples(self._folders["test"], names)[0][0]
        self._names = names
        _, height, width = _read(self._reference).shape
        self.shape = (3, height, width)

    def load(self, name: SplitName) -> Split:
        if name not in self._folders:
            raise UserError(
                f"{self.argument} holds class folders, so all its images are the test split and none are left to train on: "
                f"give a folder with train and test in it"
            )
        samples = _samples(self._folders[name], self._names)
        # The files are sorted by class, and the evaluated images are the first ones: they must be of all classes.
        order = np.random.RandomState(0).permutation(len(samples))
        return _FileSplit([samples[index] for index in order], shape=self.shape, reference=self._reference)


class _FileSplit(Split):
    """Image files, read on demand."""

    def __init__(self, samples: list[tuple[str, int]], *, shape: tuple[int, ...], reference: str) -> None:
        super().__init__(torch.tensor([label for _, label in samples]))
        self._paths = [path for path, _ in samples]
        self._reference = reference
        self._shape = shape

    def images(self, indices: Tensor) -> Tensor:
        return torch.stack([self._image(self._paths[index]) for index in indices.tolist()]).to(torch.float32) / 255

    def _image(self, path: str) -> Tensor:
        image = _read(path)
        if image.shape != self._shape:
            raise UserError(
                f"{path} is {_size(image.shape)} and {self._reference} is {_size(self._shape)}: all images must have one "
                f"size, so resize the files first"
            )
        return image


def _folders(path: Path) -> dict[SplitName, Path]:
    """The folders of the splits that exist."""
    if not path.is_dir():
        raise UserError(
            f"no folder {path}: give imagefolder:PATH, where PATH holds train and test, or a folder for each class"
        )
    for name in ("test", "val"):
        if (path / name).is_dir():
            train = path / "train"
            return {"train": train, "test": path / name} if train.is_dir() else {"test": path / name}
    if (path / "train").is_dir() and any(child.is_dir() for child in (path / "train").iterdir()):
        raise UserError(
            f"{path} has a folder train and neither test nor val: add one, the evaluated images come from it"
        )
    return {"test": path}


def _classes(folder: Path) -> list[str]:
    try:
        names, _ = find_classes(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no folders: give one for each class, with its images in it") from None
    return list(names)


def _samples(folder: Path, names: list[str]) -> list[tuple[str, int]]:
    """The image files below the class folders, by class and path, in torchvision's order, with their labels."""
    samples = []
    empty = []
    for label, name in enumerate(names):
        paths = [path for path in _below(folder / name) if path.lower().endswith(IMG_EXTENSIONS)]
        samples += [(path, label) for path in paths]
        empty += [] if paths else [name]
    if empty:
        raise UserError(
            f"{folder} has no images of {', '.join(empty[:3])}: each class folder must have some, "
            f"as {', '.join(IMG_EXTENSIONS)}"
        )
    return samples


def _below(folder: Path) -> Iterator[str]:
    """The paths below a folder, its own files first. A folder that is linked to several times is visited once."""
    visited = set()
    listings = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        key = os.path.realpath(parent)
        if key in visited:
            folders.clear()
            continue
        visited.add(key)
        listings.append((parent, sorted(files)))
    for parent, files in sorted(listings):
        yield from (os.path.join(parent, file) for file in files)  # noqa: PTH118 - a Path for every file costs seconds


def _read(path: str) -> Tensor:
    """Reads an image ``(3, H, W)``, uint8."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            # Pillow warns of faults that are refused below, or that are in unused parts of the file.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                fault = _fault(image)
                # Nothing is decoded before its size and its kind are known.
                if not fault:
                    fault = "has transparent pixels: save it on a background" if _transparent(image) else ""
                pixels: Tensor = torch.empty(0) if fault else pil_to_tensor(image.convert("RGB"))
    except UnidentifiedImageError:
        fault = f"cannot be read as an image: save it as one of {', '.join(FORMATS)}, or remove it"
    except Image.DecompressionBombError:
        fault = f"has too many pixels: an image may have {MOST_VALUES // 3:,}, resize it first"
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        fault = f"cannot be read as an image ({one_line(error)}): replace or remove it"
    if fault:
        raise UserError(f"{path} {fault}")
    return pixels


def _fault(image: Image.Image) -> str:
    """Why an image cannot be used, before it is decoded; empty if it can."""
    width, height = image.size
    if 3 * width * height > MOST_VALUES:
        return f"has {width} x {height} pixels: an image may have {MOST_VALUES // 3:,}, resize it first"
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

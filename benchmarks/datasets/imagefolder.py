"""A user's own images: a folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import find_classes
from torchvision.transforms.functional import pil_to_tensor

from robustbench_cli.attacks.base.errors import UserError, one_line
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split

__all__ = ["ImageFolder"]


class ImageFolder(Dataset):
    """Image files in one folder a class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``PATH/val``).

    Where ``PATH`` itself holds the class folders, they are the test split and there is no train split. The classes are
    the folders' names in sorted order, the files stand in a shuffled order that depends only on their number. Images
    are read when they are needed, as RGB, and all must have one size.
    """

    argument_name: ClassVar[str | None] = "PATH"

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        super().__init__(argument, data_dir=data_dir)
        path = Path(argument or "").expanduser()
        self._folders = _folders(path)
        names = _classes(self._folders["test"])
        self.classes = len(names)
        if "train" in self._folders:
            differ = set(names) ^ set(_classes(self._folders["train"]))
            if differ:
                raise UserError(
                    f"the class folders of {self._folders['train']} and {self._folders['test']} differ "
                    f"({', '.join(sorted(differ)[:3])}): give both the same"
                )
        self._reference = _files(self._folders["test"]).samples[0][0]
        _, height, width = _read(self._reference).shape
        self.shape = (3, height, width)

    def load(self, name: SplitName) -> Split:
        if name not in self._folders:
            raise UserError(
                f"{self.argument} holds class folders, so all its images are the test split and none are left to train on: "
                f"give a folder with train and test in it"
            )
        samples = _files(self._folders[name]).samples
        # The files are sorted by class; the evaluated images, the first ones, are to be of all classes.
        order = np.random.RandomState(0).permutation(len(samples))
        return _FileSplit([samples[index] for index in order], shape=self.shape, reference=self._reference)


class _FileSplit(Split):
    """Image files, read when they are asked for."""

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
                f"{path} is {_size(image.shape)} and {self._reference} is {_size(self._shape)}: all images are to have one "
                f"size, so resize the files first"
            )
        return image


def _folders(path: Path) -> dict[SplitName, Path]:
    if not path.is_dir():
        raise UserError(
            f"no folder {path}: give imagefolder:PATH, where PATH holds train and test, or a folder for each class"
        )
    for word in ("test", "val"):
        if (path / word).is_dir():
            train = path / "train"
            return {"train": train, "test": path / word} if train.is_dir() else {"test": path / word}
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


def _files(folder: Path) -> torchvision.datasets.ImageFolder:
    try:
        return torchvision.datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder} cannot be read: {one_line(error)}") from None


def _read(path: str) -> Tensor:
    """The image ``(3, H, W)``, uint8."""
    try:
        with Image.open(path) as image:
            pixels: Tensor = pil_to_tensor(image.convert("RGB"))
            mode = image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace or remove it") from None
    if mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits a channel ({mode}): save it with 8, or give npz:PATH")
    return pixels


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]} x {shape[-2]}"

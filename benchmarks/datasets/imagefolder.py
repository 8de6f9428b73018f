"""A user's own images, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.pictures import Example, ImageFile, Pictures, shuffled
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.core.errors import UserError

__all__ = ["ImageFolder"]


class ImageFolder(Pictures):
    """Image files in one folder per class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``PATH/val``).

    If ``PATH`` itself has the class folders, all images are the test split, and there is no train split. The classes are
    the names of the folders in sorted order. The files are shuffled in an order that depends only on their number. Images
    are read on demand, as RGB. Images of different sizes need an image size.
    """

    argument_name: ClassVar[str | None] = "PATH"

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
    ) -> None:
        super().__init__(argument, data_dir=data_dir, preprocessing=preprocessing, on_bad_image=on_bad_image)
        self._folders = _folders(Path(argument or "").expanduser())
        self.class_names = tuple(_classes(self._folders["test"]))
        self.classes = len(self.class_names)
        if "train" in self._folders:
            differences = {*self.class_names} ^ set(_classes(self._folders["train"]))
            if differences:
                raise UserError(
                    f"the class folders of {self._folders['train']} and {self._folders['test']} differ "
                    f"({', '.join(sorted(differences)[:3])}): give both the same"
                )
        self.shape = self.shape_of(_samples(self._folders["test"], self.class_names))

    def examples(self, name: SplitName) -> list[Example]:
        if name not in self._folders:
            raise UserError(
                f"{self.argument} holds class folders, so all its images are the test split and none are left to train on: "
                f"give a folder with train and test in it"
            )
        assert self.class_names is not None
        return shuffled(_samples(self._folders[name], self.class_names))


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


def _samples(folder: Path, names: Sequence[str]) -> list[Example]:
    """The image files below the class folders, by class and path, in torchvision's order, with their labels."""
    samples: list[Example] = []
    empty = []
    for label, name in enumerate(names):
        paths = [path for path in _below(folder / name) if path.lower().endswith(IMG_EXTENSIONS)]
        samples += [(ImageFile(path), label) for path in paths]
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

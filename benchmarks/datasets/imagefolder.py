"""A user's own images: one folder per class, or a CSV file of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from robustbench_cli.benchmarks.datasets.base.class_folders import (
    class_folders,
    files_in_class_folders,
    image_file,
    numbered,
    read_labels,
)
from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.pictures import Example, Pictures, class_count, shuffled
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.core.errors import UserError

__all__ = ["ImageFolder"]

LABELS = "labels.csv"


class ImageFolder(Pictures):
    """Image files in one folder per class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``PATH/val``).

    If ``PATH`` itself has the class folders, all images are the test split, and there is no train split. The classes are
    the names of the folders in sorted order. Instead of class folders, a folder may have a file ``labels.csv`` with the
    columns ``file`` and ``label``: a class number from 0, or a class name. The files are shuffled in an order that depends
    only on their number. Images are read on demand, as RGB. Images of different sizes need an image size.
    """

    argument_name: ClassVar[str | None] = "PATH"

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
        classes: str | None = None,
    ) -> None:
        super().__init__(argument, data_dir=data_dir, preprocessing=preprocessing, on_bad_image=on_bad_image)
        self._folders = _folders(Path(argument or "").expanduser())
        labels = {name: folder / LABELS for name, folder in self._folders.items() if (folder / LABELS).is_file()}
        if labels and len(labels) < len(self._folders):
            raise UserError(f"{argument}: only {labels.popitem()[1]} is there: give both train and test such a file")
        if classes is not None and not labels:
            raise UserError(f"{argument} has a folder per class, which gives the number of classes: leave out classes")
        self._examples: dict[SplitName, list[Example]] = {}
        self._number_of = {} if labels else self._class_folders()
        if labels:
            self._read_csv(labels, class_count(classes))
        self.shape = self.shape_of(self._in_order_of_files("test"))

    def examples(self, name: SplitName) -> list[Example]:
        if name not in self._folders:
            raise UserError(
                f"{self.argument} has no folder train, so all its images are the test split and none are left to train on: "
                f"give a folder with train and test in it"
            )
        return shuffled(self._in_order_of_files(name))

    def _in_order_of_files(self, name: SplitName) -> list[Example]:
        if name not in self._examples:
            self._examples[name] = files_in_class_folders(self._folders[name], self._number_of)
        return self._examples[name]

    def _class_folders(self) -> dict[str, int]:
        """The class folders with their numbers."""
        self.class_names = tuple(class_folders(self._folders["test"]))
        self.classes = len(self.class_names)
        if "train" in self._folders:
            differences = {*self.class_names} ^ set(class_folders(self._folders["train"]))
            if differences:
                raise UserError(
                    f"the class folders of {self._folders['train']} and {self._folders['test']} differ "
                    f"({', '.join(sorted(differences)[:3])}): give both the same"
                )
        return {name: number for number, name in enumerate(self.class_names)}

    def _read_csv(self, files: Mapping[SplitName, Path], classes: int | None) -> None:
        """Reads the files of labels; both splits number the classes together."""
        rows = [(split, *row) for split, path in files.items() for row in read_labels(path)]
        labels, self.classes, self.class_names = numbered(
            [text for *_, text in rows], classes=classes, where=" and ".join(map(str, files.values()))
        )
        self.classes_inferred = classes is None and self.class_names is None
        self._examples = {split: [] for split in files}
        for (split, where, file, _), label in zip(rows, labels, strict=True):
            self._examples[split].append((image_file(files[split].parent, file, where=where), label))


def _folders(path: Path) -> dict[SplitName, Path]:
    """The folders of the splits that exist."""
    if not path.is_dir():
        raise UserError(
            f"no folder {path}: give imagefolder:PATH, where PATH holds train and test, or a folder for each class"
        )
    if (path / LABELS).is_file():
        return {"test": path}
    for name in ("test", "val"):
        if (path / name).is_dir():
            train = path / "train"
            return {"train": train, "test": path / name} if train.is_dir() else {"test": path / name}
    if (path / "train").is_dir() and any(child.is_dir() for child in (path / "train").iterdir()):
        raise UserError(
            f"{path} has a folder train and neither test nor val: add one, the evaluated images come from it"
        )
    return {"test": path}

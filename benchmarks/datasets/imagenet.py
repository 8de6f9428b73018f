"""ImageNet's validation images as people have them: in synset folders, or in one folder with a file of labels."""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from torchvision.datasets.folder import IMG_EXTENSIONS

from robustbench_cli.benchmarks.datasets.base.class_folders import (
    class_folders,
    files_in_class_folders,
    image_file,
    read_labels,
)
from robustbench_cli.benchmarks.datasets.base.dataset import NoTrainingImagesError, SplitName
from robustbench_cli.benchmarks.datasets.base.pictures import Example, ImageFile, Pictures, shuffled
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.names_file import read_names
from robustbench_cli.core.regular_file import read_bounded

__all__ = ["ImageNet"]

CLASSES = 1000

_VALIDATION = ("val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", ".")
_TRAINING = ("train", "ILSVRC2012_img_train", "ILSVRC/Data/CLS-LOC/train")
_DEVKIT = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data", ".")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LABELS = "labels.csv"
_SOLUTION = "LOC_val_solution.csv"

_FLAT = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")

_LARGEST_MATRIX = 2**24
"""The most bytes of the development kit's meta.mat, on the disk and decompressed; it has about a tenth of them."""


class ImageNet(Pictures):
    """ImageNet (ILSVRC 2012): 50,000 validation images of 1,000 classes, color, of any size.

    ``PATH`` is the validation folder, or the folder above it (``PATH/val``). Its images are in a folder per synset
    (``n01440764``), or all in one folder under their original names (``ILSVRC2012_val_00000001.JPEG``). Then a file of labels
    is needed above or beside them: ``ILSVRC2012_validation_ground_truth.txt`` with ``meta.mat``, as in the development kit;
    Kaggle's ``LOC_val_solution.csv``; or ``labels.csv`` with the columns ``file`` and ``label``, a synset or a class number.
    With ``labels.csv``, the images may have any names. The classes have torchvision's order, the sorted synsets, also where
    a folder has only some of them, as ImageNet-R and ImageNet-A. Folders may be called by class numbers, ``0`` to ``999``, as
    in ImageNet-V2.

    The images are shuffled in an order that depends only on their names and classes. So it is the same in synset folders and in
    one folder, in a part of them, and under each corruption of ImageNet-C. ``?ids=FILE`` evaluates the files of a list, in its
    order, one ``SYNSET/FILE.JPEG`` a line, as RobustBench's list of 5,000; images in one folder need no ``SYNSET``.
    ``?class_list=FILE`` gives other class folders, one name a line, in the order of the model's outputs.
    """

    paper: ClassVar[str] = (
        "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, arXiv 1409.0575"
    )
    argument_name: ClassVar[str | None] = "PATH"
    eps: ClassVar[str] = "4/255"
    augmentations: ClassVar[tuple[str, ...]] = ("random-resized-crop", "flip")

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
        ids: str | None = None,
        class_list: str | None = None,
    ) -> None:
        super().__init__(argument, data_dir=data_dir, preprocessing=preprocessing, on_bad_image=on_bad_image)
        self._path = Path(argument or "").expanduser()
        if not self._path.is_dir():
            raise UserError(f"no folder {self._path}: give imagenet:PATH, where PATH has ImageNet's validation images")
        if class_list is None:
            synsets, self.class_names = _imagenet_classes()
        else:
            synsets = self.class_names = read_names(Path(class_list).expanduser())
        self.classes = len(synsets)
        self._number_of = {synset: number for number, synset in enumerate(synsets)}
        if class_list is None:
            self._number_of |= {str(number): number for number in range(CLASSES)}
        self._folder = next(path for name in _VALIDATION if (path := self._path / name).is_dir())
        self._test = self._evaluated(None if ids is None else Path(ids).expanduser())
        self.shape = self.shape_of(self._test)

    def examples(self, name: SplitName) -> list[Example]:
        if name == "test":
            return self._test
        folder = next((path for name in _TRAINING if (path := self._path / name).is_dir()), None)
        if folder is None:
            raise NoTrainingImagesError(f"{self._path} has no folder train, so there is nothing to train on")
        return shuffled(files_in_class_folders(folder, self._labels_of_folders(folder)))

    def _evaluated(self, ids: Path | None) -> list[Example]:
        """The validation images in their final order: that of the list of ids, or shuffled by name."""
        flat = dict(self._flat())
        if ids is not None:
            return [self._listed(line, flat, where=f"{ids}, line {row}") for row, line in enumerate(read_names(ids), 1)]
        if flat:
            examples: list[Example] = [(ImageFile(str(self._folder / name)), label) for name, label in flat.items()]
        else:
            examples = files_in_class_folders(self._folder, self._labels_of_folders(self._folder))
        return sorted(examples, key=_order)

    def _labels_of_folders(self, folder: Path) -> dict[str, int]:
        """The label of each class folder."""
        names = class_folders(folder)
        unknown = [name for name in names if name not in self._number_of]
        if unknown:
            raise UserError(
                f"{folder} has the folder {unknown[0]}, which is not among the {self.classes:,} classes: "
                "give their folders in the model's order with ?class_list=FILE, or the data as imagefolder:PATH"
            )
        return {name: self._number_of[name] for name in names}

    def _listed(self, line: str, flat: Mapping[str, int], *, where: str) -> Example:
        """The image of a line of ``ids``."""
        synset, slash, name = line.rpartition("/")
        if synset not in self._number_of and (slash or name not in flat):
            raise UserError(f"{where}: '{line[:80]}': give SYNSET/FILE.JPEG")
        if name in flat:
            label = flat[name]
            if slash and self._number_of[synset] != label:
                raise UserError(
                    f"{where}: {line[:80]} is of class {self._class(self._number_of[synset])}, and the file of labels says "
                    f"{self._class(label)}: one of the two is of other images"
                )
            return image_file(self._folder, name, where=where), label
        file = image_file(self._folder, line, where=where)
        if not Path(file.path).is_file():
            raise UserError(f"{where}: no file {file}: the list and the folder do not fit")
        return file, self._number_of[synset]

    def _class(self, label: int) -> str:
        """The number and the name of a class, for messages."""
        assert self.class_names is not None
        return f"{label} ({self.class_names[label][:40]})"

    def _flat(self) -> Iterator[tuple[str, int]]:
        """The images that are all in one folder, by name, with their labels."""
        paths = [path for path in self._folder.iterdir() if path.name.lower().endswith(IMG_EXTENSIONS)]
        names = sorted(path.name for path in paths)
        if not (self._folder / _LABELS).is_file():
            original = [name for name in names if _FLAT.fullmatch(name)]
            classes = [path.name for path in self._folder.iterdir() if path.name in self._number_of and path.is_dir()]
            if original and classes:
                raise UserError(
                    f"{self._folder} has images of its own, such as {original[0]}, and class folders, such as "
                    f"{min(classes)}: move one of them away"
                )
            # Beside class folders, other images are none of the data set.
            names = original or ([] if any(path.is_dir() for path in self._folder.iterdir()) else names)
        if not names:
            return
        labels = self._labels_of_files()
        for name in names:
            label = labels.get(name, labels.get(name.removesuffix(".JPEG")))
            if label is None:
                raise UserError(f"{self._folder / name} has no label in the file of labels")
            yield name, label

    def _labels_of_files(self) -> dict[str, int]:
        """The label of each validation image by its name, from whichever file of labels there is.

        The ending ``.JPEG`` may be left out in the file.
        """
        # Kaggle's file is beside the folder ILSVRC, three above the images.
        folders = [self._folder, *self._folder.resolve().parents[:4]]
        for folder in folders:
            for name in (_LABELS, _SOLUTION):
                if (folder / name).is_file():
                    return {file: self._number(label, where) for where, file, label in read_labels(folder / name)}
            for name in _DEVKIT:
                if (folder / name / _GROUND_TRUTH).is_file():
                    return self._of_the_devkit(folder / name)
        raise UserError(
            f"{self._folder} has all images in one folder, and no file of labels is there: put {_GROUND_TRUTH} and meta.mat "
            f"of the development kit, {_SOLUTION}, or {_LABELS} (file,label) beside it"
        )

    def _number(self, label: str, where: str) -> int:
        # Kaggle's column goes on with boxes: 'n03995372 85 1 499 272'.
        synset = label if label in self._number_of else label.partition(" ")[0]
        if synset not in self._number_of:
            raise UserError(f"{where}: '{label[:80]}' is not among the {self.classes:,} classes")
        return self._number_of[synset]

    def _of_the_devkit(self, folder: Path) -> dict[str, int]:
        """The labels of the development kit, whose classes have an order of their own."""
        synset_of = _devkit_synsets(folder / "meta.mat")
        labels = {}
        for row, number in enumerate(read_names(folder / _GROUND_TRUTH), 1):
            where = f"{folder / _GROUND_TRUTH}, line {row}"
            synset = synset_of.get(number)
            if synset is None:
                raise UserError(f"{where}: '{number[:80]}' is no class of meta.mat")
            labels[f"ILSVRC2012_val_{row:08}"] = self._number(synset, where)
        return labels


def _order(example: Example) -> bytes:
    """Shuffles images by their class and file name, whatever the folder and whichever other images are there."""
    picture, label = example
    name = str(picture).rpartition("/")[2]
    return hashlib.sha256(f"{label}/{name}".encode("utf-8", "surrogateescape")).digest()


@cache
def _imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1,000 synsets and their names, in torchvision's order: the facts of ILSVRC 2012, with torchvision's names."""
    path = Path(__file__).with_name("imagenet_classes.tsv")
    rows = [line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(synset for synset, _, _ in rows), tuple(name for *_, name in rows)


def _devkit_synsets(path: Path) -> dict[str, str]:
    """The synset of each class of the development kit, by its number there (ILSVRC2012_ID, from 1)."""
    if not path.is_file():
        raise UserError(f"no file {path}: it gives the synsets of the development kit's classes")
    from scipy.io import loadmat

    try:
        content = read_bounded(path, _LARGEST_MATRIX)
        _require_small(content)
        # SciPy makes arrays, records and text of the file; nothing of it is run.
        arrays = loadmat(io.BytesIO(content), variable_names=["synsets"], squeeze_me=True, struct_as_record=True)
        table = arrays["synsets"]
        leaves = table[table["num_children"] == 0]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in leaves}
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"{path} cannot be read as the development kit's meta.mat ({one_line(error)})") from None


def _require_small(content: bytes) -> None:
    """Makes sure that the elements of a MATLAB file (level 5) unpack to a bounded size.

    A header of 128 bytes; then for each element its type and its number of bytes, as uint32. Type 15 is compressed.
    """
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    position, total = 128, 0
    while position + 8 <= len(content):
        kind, size = (int.from_bytes(content[position + at : position + at + 4], order) for at in (0, 4))
        element = content[position + 8 : position + 8 + size]
        unpacked = zlib.decompressobj().decompress(element, _LARGEST_MATRIX) if kind == 15 else element
        total += len(unpacked)
        if total >= _LARGEST_MATRIX:
            raise UserError(f"it holds more than {_LARGEST_MATRIX:,} bytes")
        position += 8 + size

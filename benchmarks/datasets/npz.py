"""A user's own images, as NumPy arrays in an ``.npz`` file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.lib import format as npy

from robustbench_cli.benchmarks.datasets.base.arrays import Array, BadArraysError, PickledError, read_arrays
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, NoTrainingImagesError, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.regular_file import open_regular

__all__ = ["Npz"]

# The names of our arrays in files of MedMNIST and Keras, and in published files of generated images.
_TEST = {"images": ("test_images", "x_test", "image"), "labels": ("test_labels", "y_test", "label")}
_TRAIN = {"images": ("train_images", "x_train"), "labels": ("train_labels", "y_train")}
_NAMES = {**_TEST, **{f"train_{key}": names for key, names in _TRAIN.items()}}
_LABELS = {"labels", "train_labels", *_TEST["labels"], *_TRAIN["labels"]}
_ARRAYS = {"classes", *_NAMES, *(name for names in _NAMES.values() for name in names)}

_MOST_CLASSES = 2**20
"""As many as the outcomes of a cell can tell apart."""


class Npz(Dataset):
    """Arrays in an ``.npz`` file: ``images`` and ``labels``, and ``train_images`` and ``train_labels`` to train on.

    The names of MedMNIST (``test_images``, ``test_labels``), Keras (``x_test``, ``y_test``, ``x_train``, ``y_train``) and of
    published generated images (``image``, ``label``) are read too. ``PATH`` may also be a folder with ``test.npz`` and ``train.npz``, each with ``images`` and ``labels``. Images
    are ``(N, C, H, W)``, ``(N, H, W, C)`` or ``(N, H, W)`` with C 1 or 3, channels first if both fit; uint8, or floats in
    [0, 1]. Labels are integers ``(N,)`` or ``(N, 1)``. The number of classes is ``classes`` if the (test) file has it, else
    the largest label plus one.
    """

    argument_name: ClassVar[str | None] = "PATH"

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        super().__init__(argument, data_dir=data_dir)
        path = Path(argument or "").expanduser()
        test = path / "test.npz" if path.is_dir() else path
        arrays = _arrays(test)
        self._images = {"test": _images(arrays, _name("images", arrays), test)}
        if not arrays.keys() & _LABELS:
            self.missing_labels = _missing("labels", arrays, test)
            arrays["labels"] = np.zeros(len(self._images["test"]), np.int64)
            arrays["classes"] = np.asarray(2)
        self._labels = {"test": _labels(arrays, _name("labels", arrays), test)}
        train = path / "train.npz"
        self.read_files = [test]
        if path.is_dir() and train.exists():
            self.read_files = [test, train]
            more = _arrays(train)
            self._images["train"] = _images(more, _name("images", more, _TRAIN), train)
            self._labels["train"] = _labels(more, _name("labels", more, _TRAIN), train)
        elif any(key in arrays for key in (*_TRAIN["images"], *_TRAIN["labels"])):
            self._images["train"] = _images(arrays, _name("train_images", arrays), test)
            self._labels["train"] = _labels(arrays, _name("train_labels", arrays), test)
        self.classes_inferred = "classes" not in arrays
        self.classes = _classes(arrays, list(self._labels.values()), test)
        self.shape = self._images["test"].shape[1:]

    def load(self, name: SplitName) -> Split:
        if name not in self._images:
            raise NoTrainingImagesError(
                f"{self.argument} has nothing to train on: add the arrays train_images and train_labels"
            )
        return TensorSplit(
            torch.as_tensor(self._images[name]),
            torch.as_tensor(self._labels[name]),
            where=f"the {name} images of {self.argument}",
        )


def _arrays(path: Path) -> dict[str, Array]:
    """Reads the arrays of a file that have a known name; pickled objects are never loaded."""
    if not path.is_file():
        raise UserError(f"no file {path}: give npz:PATH, where PATH is an .npz file with the arrays images and labels")
    start = b""
    try:
        with open_regular(path) as file:
            start = file.read(6)
            file.seek(0)
            return read_arrays(file, _ARRAYS)
    except PickledError:
        pass
    except (OSError, BadArraysError) as error:
        if start == npy.MAGIC_PREFIX:
            raise UserError(
                f"{path} is a single array: save it with numpy.savez(path, images=..., labels=...)"
            ) from None
        # Every pickle begins with this byte.
        if not start.startswith(b"\x80"):
            raise UserError(
                f"{path} cannot be read as an .npz file ({error}): save it again with numpy.savez"
            ) from None
    raise UserError(
        f"{path} holds pickled objects, which could run code and are not loaded: save plain arrays with numpy.savez"
    )


def _name(key: str, arrays: dict[str, Array], names: Mapping[str, tuple[str, ...]] = _NAMES) -> str:
    """The name in a file of the array that we call ``key``; our own name if the file has none of the known names."""
    return next((name for name in (key, *names[key]) if name in arrays), key)


def _array(arrays: dict[str, Array], key: str, path: Path) -> Array:
    if key not in arrays:
        raise UserError(_missing(key, arrays, path))
    return arrays[key]


def _missing(key: str, arrays: dict[str, Array], path: Path) -> str:
    """The message about an array that a file lacks."""
    hint = did_you_mean(key, arrays, lead="it has ") if arrays else "it has no arrays"
    return f"{path} has no array '{key}': {hint}: save it with numpy.savez(path, images=..., labels=...)"


def _images(arrays: dict[str, Array], key: str, path: Path) -> Array:
    """Images as ``(N, C, H, W)``, in their own type."""
    images = _array(arrays, key, path)
    if images.dtype.kind not in "buifc" or images.dtype.char in "gG":
        raise UserError(f"'{key}' of {path} is {images.dtype}: give uint8, or float32 in [0, 1]")
    # PyTorch takes only the machine's own byte order.
    images = images.astype(images.dtype.newbyteorder("="), copy=False)
    if images.ndim == 3:
        return images[:, None]
    first, last = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (1, 3))
    if not (first or last):
        raise UserError(
            f"'{key}' of {path} has the shape {images.shape}: give (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _labels(arrays: dict[str, Array], key: str, path: Path) -> Array:
    labels = _array(arrays, key, path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise UserError(
            f"'{key}' of {path} is {labels.dtype} of shape {labels.shape}: give the class number of each image, integers of shape (N,) or (N, 1)"
        )
    return labels.astype(np.int64)


def _classes(arrays: dict[str, Array], labels: list[Array], path: Path) -> int:
    if "classes" in arrays:
        classes = arrays["classes"]
        if classes.ndim or not np.issubdtype(classes.dtype, np.integer) or classes < 2:
            raise UserError(f"'classes' of {path} is {classes}: give one whole number, at least 2")
        if classes > _MOST_CLASSES:
            raise UserError(f"'classes' of {path} is {classes:,}: give at most {_MOST_CLASSES:,}")
        return int(classes)
    largest = max(int(split.max()) for split in labels)
    if largest < 1:
        raise UserError(f"the labels of {path} reach only to {largest}: add the array classes, the number of classes")
    return largest + 1

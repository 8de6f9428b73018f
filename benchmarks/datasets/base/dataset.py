"""The base class of data sets: classes, the shape of the images, and two splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

import platformdirs
import torch
from torch import Tensor

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.options import with_options
from robustbench_cli.benchmarks.datasets.base.split import Split, check_images
from robustbench_cli.core.errors import UserError

__all__ = ["Dataset", "NoTrainingImagesError", "SplitName", "numbered_from_one"]

SplitName = Literal["train", "test"]


class NoTrainingImagesError(UserError):
    """The data set has test images only."""


class Dataset(ABC):
    """A data set: images of one shape with their classes, in a train and a test split.

    A subclass names its classes and shape (as class attributes, or in its ``__init__``) and writes :meth:`load`.

    Attributes:
        paper: The source of the data: authors, title, place. Shown by ``advdef show``.
        argument_name: What follows the colon in the data set's name (``PATH`` in ``npz:PATH``); ``None`` if nothing does.
        epochs: Training epochs that are usually enough for a small model.
        any_size: Whether the images have no size of their own, so that a model's preprocessing brings them to its size.
        eps: The usual radius in linf in the literature, the default of attacks and of adversarial training. Unless a data
            set sets it, it is 8/255 as for CIFAR-10.
        augmentations: The usual augmentations of its training images.
        mirror_changes_class: Whether the mirror image of an image may be of another class, as that of a digit.
        only_corrupted: Whether it has published files of corrupted images, and no others; see :meth:`published`.
        classes: The number of classes K.
        classes_inferred: Whether K is only the largest label plus one, so that there may be more classes.
        shape: ``(C, H, W)`` of every image.
        class_names: The name of each class, in order; ``None`` if they are unknown.
        options: The options in its name.
        missing_labels: What to tell a user who needs the labels of images without any; empty if there are labels.
        read_files: The files that its ``__init__`` has read; where one has changed, :func:`~.load.load_dataset` reads them again.
    """

    paper: ClassVar[str] = ""
    argument_name: ClassVar[str | None] = None
    epochs: ClassVar[int] = 10
    any_size: ClassVar[bool] = False
    eps: ClassVar[str] = "8/255"
    augmentations: ClassVar[tuple[str, ...]] = ()
    mirror_changes_class: ClassVar[bool] = False
    only_corrupted: ClassVar[bool] = False

    classes: int
    classes_inferred: bool = False
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    options: Mapping[str, str] = MappingProxyType({})
    missing_labels: str = ""
    read_files: Sequence[Path] = ()

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        """Checks the argument; reads no image yet.

        Args:
            argument: What follows the colon in the data set's name.
            data_dir: The folder of downloaded data sets; without it, the user's cache folder.

        Raises:
            UserError: The argument is missing, or this data set takes none.
        """
        self.argument = argument
        self.data_dir = data_dir if data_dir is not None else platformdirs.user_cache_path("advdef") / "datasets"
        self._splits: dict[SplitName, Split] = {}
        name = registry.name_of(type(self))
        if self.argument_name is not None and not argument:
            raise UserError(f"data set {name} needs an argument: give {name}:{self.argument_name}")
        if self.argument_name is None and argument is not None:
            raise UserError(f"data set {name} takes nothing after its name, not ':{argument}': give {name}")

    @property
    def name(self) -> str:
        """The name by which :func:`~.load.load_dataset` finds this data set."""
        name = registry.name_of(type(self))
        return with_options(name if self.argument is None else f"{name}:{self.argument}", self.options)

    @property
    def has_usual_eps(self) -> bool:
        """Whether the data set has a usual radius of its own, and not the default of all."""
        return any("eps" in vars(kind) for kind in type(self).__mro__ if kind is not Dataset)

    def allows_classes(self, classes: int) -> bool:
        """Whether a model with this number of classes can be one for these data.

        Args:
            classes: K of the model.
        """
        return classes == self.classes or (self.classes_inferred and classes > self.classes)

    @abstractmethod
    def load(self, name: SplitName) -> Split:
        """Reads a split, always in the same order: the evaluated images are its first ones.

        Args:
            name: The split.
        """

    def published(self, corruption: str, severity: int) -> Split:
        """The published test images under a corruption, in the same order for all corruptions.

        Args:
            corruption: Its name.
            severity: Of 1 to 5.

        Raises:
            UserError: The data set has no such images, or they are damaged.
        """
        raise UserError(f"{self.name} has no published images of {corruption}: its corruptions are computed")

    def split(self, name: SplitName) -> Split:
        """A split, loaded once and then cached.

        Args:
            name: The split.

        Raises:
            UserError: The data are missing or damaged, or do not match the data set's classes and shape.
        """
        if name not in self._splits:
            split = self.load(name)
            self._check(split, where=f"the {name} split of {self.name}")
            split.usual_eps = parse_eps(self.eps).value
            split.usual_augmentations = self.augmentations
            split.class_names = self.class_names
            self._splits[name] = split
        return self._splits[name]

    def _check(self, split: Split, *, where: str) -> None:
        labels = split.labels
        if labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
            raise UserError(
                f"{where} has labels of type {labels.dtype} and shape {tuple(labels.shape)}: give int64 and (N,), N at least 1"
            )
        if message := numbered_from_one(labels, self.classes, where=where):
            raise UserError(message)
        wrong = ((labels < 0) | (labels >= self.classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise UserError(
                f"{where} has the label {int(labels[index])} at index {index}: with {self.classes} classes, "
                f"labels are 0 to {self.classes - 1}"
            )
        images, _ = split.first(1)
        if images.dtype != torch.float32 or tuple(images.shape) != (1, *self.shape):
            raise UserError(
                f"{where} gives images of type {images.dtype} and shape {tuple(images.shape[1:])}: "
                f"it must give torch.float32 and {self.shape}"
            )
        check_images(images, where=f"the images in {where}")


def numbered_from_one(labels: Tensor, classes: int, *, where: str) -> str:
    """The message about labels that are 1 to K, as MATLAB and many label files number them; empty for other labels.

    Args:
        labels: ``(N,)``.
        classes: K.
        where: Whose labels they are, for the message.

    >>> numbered_from_one(torch.tensor([3, 1, 2]), 3, where="npz:mine.npz")
    'npz:mine.npz has labels from 1 to 3, and labels begin at 0: subtract 1 from each'
    >>> numbered_from_one(torch.tensor([2, 0, 1]), 3, where="npz:mine.npz")
    ''
    """
    if (int(labels.min()), int(labels.max())) != (1, classes):
        return ""
    return f"{where} has labels from 1 to {classes:,}, and labels begin at 0: subtract 1 from each"

"""What a data set is: its classes, the shape of its images, and two splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

import platformdirs
import torch

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.split import Split, check_images
from robustbench_cli.core.errors import UserError

__all__ = ["Dataset", "SplitName"]

SplitName = Literal["train", "test"]


class Dataset(ABC):
    """A data set: images of one shape with their classes, in a train and a test split.

    A subclass names its classes and shape (as class attributes, or in its ``__init__``) and writes :meth:`load`.

    Attributes:
        paper: The source of the data: authors, title, place. Shown by ``advdef show``.
        argument_name: What follows the colon in the data set's name (``PATH`` in ``npz:PATH``); ``None`` where nothing
            does.
        epochs: Training epochs that are usually enough for a small model.
        eps: The radius in linf at which the literature usually attacks it: what attacks take, and what defenses train for,
            where nothing else is asked. 8/255, as for CIFAR-10, where a data set names none.
        classes: The number of classes K.
        shape: ``(C, H, W)`` of every image.
    """

    paper: ClassVar[str] = ""
    argument_name: ClassVar[str | None] = None
    epochs: ClassVar[int] = 10
    eps: ClassVar[str] = "8/255"

    classes: int
    shape: tuple[int, int, int]

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        """Takes the data set's words, and reads no image yet.

        Args:
            argument: What followed the colon in the data set's name.
            data_dir: The folder of downloaded data sets; without it, the user's cache folder.

        Raises:
            UserError: The argument is missing, or there is one that this data set does not take.
        """
        self.argument = argument
        self.data_dir = data_dir if data_dir is not None else platformdirs.user_cache_path("advdef") / "datasets"
        self._splits: dict[SplitName, Split] = {}
        word = registry.name_of(type(self))
        if self.argument_name is not None and not argument:
            raise UserError(f"data set {word} needs to be told what to read: give {word}:{self.argument_name}")
        if self.argument_name is None and argument is not None:
            raise UserError(f"data set {word} takes nothing after its name, not ':{argument}': give {word}")

    @property
    def name(self) -> str:
        """The name under which :func:`~.load.load_dataset` finds this data set again."""
        word = registry.name_of(type(self))
        return word if self.argument is None else f"{word}:{self.argument}"

    @abstractmethod
    def load(self, name: SplitName) -> Split:
        """Reads a split. Its order must be the same each time: the evaluated images are always its first ones."""

    def split(self, name: SplitName) -> Split:
        """A split, loaded once and kept.

        Raises:
            UserError: The data are missing, damaged or not what the data set says of them.
        """
        if name not in self._splits:
            split = self.load(name)
            self._check(split, where=f"the {name} split of {self.name}")
            split.usual_eps = parse_eps(self.eps).value
            self._splits[name] = split
        return self._splits[name]

    def _check(self, split: Split, *, where: str) -> None:
        labels = split.labels
        if labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
            raise UserError(
                f"{where} has labels of type {labels.dtype} and shape {tuple(labels.shape)}: give int64 and (N,), N at least 1"
            )
        wrong = ((labels < 0) | (labels >= self.classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise UserError(
                f"{where} has the label {int(labels[index])} at index {index}: with {self.classes} classes, "
                f"labels are 0 to {self.classes - 1}"
            )
        images, _ = split.batch(torch.zeros(1, dtype=torch.int64))
        if images.dtype != torch.float32 or tuple(images.shape) != (1, *self.shape):
            raise UserError(
                f"{where} gives images of type {images.dtype} and shape {tuple(images.shape[1:])}: "
                f"it is to give torch.float32 and {self.shape}"
            )
        check_images(images, where=f"the images in {where}")

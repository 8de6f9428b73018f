"""Further images for a training: generated ones, or ones without labels that a checkpoint labels."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, open_defended_model
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, NoTrainingImagesError
from robustbench_cli.benchmarks.datasets.base.load import load_unlabeled
from robustbench_cli.benchmarks.datasets.base.options import with_options
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.core.errors import UserError

__all__ = ["HASHED_IMAGES", "ExtraData", "hash_of", "open_extra_data"]

HASHED_IMAGES = 1000
"""The number of training images that are hashed; reading all images of a folder could take minutes."""

_BATCH = 256
"""The number of images in a pass of the labeling checkpoint."""


@dataclass(frozen=True)
class ExtraData:
    """Extra training images that fit a data set.

    Attributes:
        split: The images; their labels count only without a teacher.
        teacher: The model whose predictions are the labels; ``None`` if the images have labels of their own.
    """

    split: Split
    teacher: DefendedModel | None

    @property
    def identity(self) -> str:
        """A hash of the number of images, the first of them, and the labels or the model that gives them."""
        if self.teacher is None:
            return hash_of(self.split)
        images = first_examples(self.split, HASHED_IMAGES).sha256
        return f"{len(self.split)}-{images}-{self.teacher.identity}"

    def examples(self, device: torch.device, seed: int) -> Split:
        """The images with their labels.

        Args:
            device: Where the teacher labels them.
            seed: Determines the draws of a randomized teacher.
        """
        if self.teacher is None:
            return self.split
        labeled = copy.copy(self.split)
        labeled.labels = _predictions(self.teacher, self.split, device, seed)
        return labeled


def open_extra_data(
    name: str, pseudo_labels: str | None, data: Dataset, *, data_dir: Path | None, named: set[str]
) -> ExtraData:
    """Opens the extra images of a training.

    Their training images are used; or, if there are none, as in a file of generated images, all of them.

    Args:
        name: Their data set, as the user named it.
        pseudo_labels: The checkpoint that labels them instead of their own labels, if there is one.
        data: The data set that is trained on.
        data_dir: The folder of downloaded data sets.
        named: Code of the user's own that the checkpoint may need.

    Raises:
        UserError: The images or the checkpoint cannot be read, or have another shape or number of classes than the data set.
    """
    extra = load_unlabeled(name, data_dir=data_dir)
    if extra.shape != data.shape:
        channels, height, width = data.shape
        size = height if height == width else f"{height}x{width}"
        raise UserError(
            f"the extra data {name} have images {extra.shape}, and {data.name} has {data.shape}: give images of the same "
            f"shape, or say how to bring them to it, as in {with_options(name, {'image_size': size, 'channels': channels})}"
        )
    teacher = None if pseudo_labels is None else open_defended_model(Path(pseudo_labels), named=named)
    if teacher is None:
        _require_labels(extra, name, data)
    elif (teacher.shape, teacher.classes) != (data.shape, data.classes):
        raise UserError(
            f"{pseudo_labels} takes images {teacher.shape} of {teacher.classes} classes, and {data.name} has {data.shape} "
            f"of {data.classes}: give a checkpoint that was trained on these classes"
        )
    try:
        split = extra.split("train")
    except NoTrainingImagesError:
        split = extra.split("test")
    return ExtraData(split, teacher)


def _require_labels(extra: Dataset, name: str, data: Dataset) -> None:
    """Checks that extra images have labels, and the classes of the data set.

    Args:
        extra: The extra images.
        name: As the user named them.
        data: The data set that is trained on.

    Raises:
        UserError: They do not.
    """
    if extra.missing_labels:
        raise UserError(
            f"the extra data {name} have no labels: give a checkpoint that labels them, --pseudo-labels FILE"
        )
    names = [part.class_names for part in (extra, data) if part.class_names]
    if not extra.allows_classes(data.classes) or len({*names}) > 1:
        theirs, ours = (
            f"{part.classes} classes{f' ({part.class_names[0]}, …)' if part.class_names else ''}"
            for part in (extra, data)
        )
        raise UserError(
            f"the extra data {name} have {theirs}, and {data.name} has {ours}: give data of the same classes, or label them "
            "with --pseudo-labels FILE"
        )


def hash_of(examples: Split) -> str:
    """A hash of training examples: of all labels and of the first images."""
    labels = hashlib.sha256(examples.labels.numpy().data).hexdigest()
    return f"{labels}-{first_examples(examples, HASHED_IMAGES).sha256}"


@torch.no_grad()
def _predictions(teacher: DefendedModel, split: Split, device: torch.device, seed: int) -> Tensor:
    """The classes ``(N,)`` that a model gives the images of a split."""
    model = teacher.load().to(device)
    with seeded(seed):
        batches = torch.arange(len(split)).split(_BATCH)
        return torch.cat([model(split.images(batch).to(device)).argmax(1).cpu() for batch in batches])

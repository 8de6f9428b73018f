"""A data set whose images have one size, brought to another one."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.as_picture import as_picture
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.options import with_options
from robustbench_cli.benchmarks.datasets.base.preprocessing import Preprocessing
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit

__all__ = ["Preprocessed"]


class Preprocessed(Dataset):
    """A data set with a preprocessing.

    Args:
        dataset: Gives the images.
        preprocessing: Brings them to another shape.

    Raises:
        UserError: The images are too small or too large for the preprocessing.
    """

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing) -> None:
        # The arguments of its data set were checked there.
        self._dataset = dataset
        self._preprocessing = preprocessing
        self._splits = {}
        self.argument, self.data_dir = dataset.argument, dataset.data_dir
        self.classes, self.classes_inferred = dataset.classes, dataset.classes_inferred
        self.class_names = dataset.class_names
        self.shape = preprocessing.shape(dataset.shape)
        for name in (
            "paper",
            "epochs",
            "eps",
            "augmentations",
            "mirror_changes_class",
            "only_corrupted",
            "missing_labels",
            "read_files",
        ):
            setattr(self, name, getattr(dataset, name))

    @property
    def name(self) -> str:
        return with_options(self._dataset.name, self._preprocessing.options)

    def load(self, name: SplitName) -> Split:
        return _PreprocessedSplit(self._dataset.split(name), self._preprocessing)

    def published(self, corruption: str, severity: int) -> Split:
        return _PreprocessedSplit(self._dataset.published(corruption, severity), self._preprocessing)


class _PreprocessedSplit(Split):
    """The examples of another split, each preprocessed when it is needed."""

    def __init__(self, split: Split, preprocessing: Preprocessing) -> None:
        super().__init__(split.labels)
        self._split = split
        self._preprocessing = preprocessing
        # Pillow rounds 8-bit images to 8 bits again, as it does for every image file.
        self._eight_bits = isinstance(split, TensorSplit) and split.eight_bits

    def images(self, indices: Tensor) -> Tensor:
        return torch.stack([self._preprocessed(image) for image in self._split.images(indices)])

    def _preprocessed(self, image: Tensor) -> Tensor:
        if not self._eight_bits:
            return torch.from_numpy(self._preprocessing.array(image.numpy()))
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return torch.tensor(self._preprocessing.picture(as_picture(pixels))).to(torch.float32) / 255

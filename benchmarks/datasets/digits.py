"""Scikit-learn's digits: they need no download, and a model trains on them in seconds."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit

__all__ = ["Digits"]


class Digits(Dataset):
    """Scikit-learn's handwritten digits: 1,797 gray images of 8 x 8, of which 1,297 train and 500 test.

    Pixels of 0 to 16 become [0, 1]. The examples are shuffled once, with seed 0, before they are split.
    """

    paper: ClassVar[str] = (
        "E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository 1998 (its test part)"
    )
    epochs: ClassVar[int] = 40
    eps: ClassVar[str] = "0.15"
    mirror_changes_class: ClassVar[bool] = True
    classes = 10
    shape = (1, 8, 8)

    def load(self, name: SplitName) -> Split:
        # The file that sklearn.datasets.load_digits reads. The import of sklearn takes longer than the rest of a short command.
        package = find_spec("sklearn")
        assert package is not None
        assert package.origin is not None
        with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
            table = np.loadtxt(file, delimiter=",")
        pixels, labels = table[:, :-1], table[:, -1].astype(np.int64)
        # RandomState, because NumPy guarantees its stream for all versions, unlike those of newer generators.
        order = np.random.RandomState(0).permutation(len(labels))
        indices = order[:1297] if name == "train" else order[1297:]
        images = torch.as_tensor(pixels[indices] / 16, dtype=torch.float32).reshape(-1, *self.shape)
        return TensorSplit(images, torch.as_tensor(labels[indices], dtype=torch.int64))

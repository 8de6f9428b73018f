"""Pairs of digits side by side: a data set of 100 classes that needs no download."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.benchmarks.datasets.digits import Digits

__all__ = ["DigitPairs"]

_PAIRS = {"train": 6000, "test": 500}


class DigitPairs(Dataset):
    """Random pairs of the digits: gray images of 8 x 16 whose class is the number of two places that they show."""

    paper: ClassVar[str] = Digits.paper
    epochs: ClassVar[int] = 20
    eps: ClassVar[str] = "0.15"
    classes = 100
    shape = (1, 8, 16)

    def load(self, name: SplitName) -> Split:
        split = Digits().split(name)
        images, labels = split.first(len(split.labels))[0], split.labels
        # RandomState, because NumPy guarantees its stream for all versions.
        pairs = torch.from_numpy(np.random.RandomState(0).randint(0, len(labels), (_PAIRS[name], 2)))
        left, right = pairs.unbind(1)
        return TensorSplit(torch.cat([images[left], images[right]], dim=3), 10 * labels[left] + labels[right])

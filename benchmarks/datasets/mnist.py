"""MNIST, as torchvision reads it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torchvision

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.downloaded import Downloaded

__all__ = ["Mnist"]


class Mnist(Downloaded):
    """MNIST: handwritten digits, gray, 28 x 28; 60,000 train and 10,000 test."""

    paper: ClassVar[str] = (
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998"
    )
    epochs: ClassVar[int] = 5
    eps: ClassVar[str] = "0.3"
    mirror_changes_class: ClassVar[bool] = True
    files: ClassVar[str] = "MNIST/raw"
    classes = 10
    shape = (1, 28, 28)

    def open(self, name: SplitName, *, root: Path, download: bool) -> torchvision.datasets.MNIST:
        return torchvision.datasets.MNIST(root, train=name == "train", download=download)

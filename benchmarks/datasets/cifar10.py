"""CIFAR-10, as torchvision reads it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torchvision

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.downloaded import Downloaded

__all__ = ["Cifar10"]


class Cifar10(Downloaded):
    """CIFAR-10: 6,000 images of each of 10 classes, color, 32 x 32; 50,000 train and 10,000 test."""

    paper: ClassVar[str] = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report 2009"
    epochs: ClassVar[int] = 20
    eps: ClassVar[str] = "8/255"
    augmentations: ClassVar[tuple[str, ...]] = ("crop", "flip")
    files: ClassVar[str] = "cifar-10-batches-py"
    classes = 10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    shape = (3, 32, 32)

    def open(self, name: SplitName, *, root: Path, download: bool) -> torchvision.datasets.CIFAR10:
        return torchvision.datasets.CIFAR10(root, train=name == "train", download=download)

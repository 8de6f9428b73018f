"""SVHN, as torchvision reads it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torchvision

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.downloaded import Downloaded

__all__ = ["Svhn"]


class Svhn(Downloaded):
    """SVHN: house numbers cropped to one digit, color, 32 x 32; 73,257 train, 26,032 test. Label 0 is the digit 0."""

    paper: ClassVar[str] = (
        "Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng, Reading Digits in Natural Images with Unsupervised "
        "Feature Learning, NIPS workshop 2011"
    )
    epochs: ClassVar[int] = 5
    eps: ClassVar[str] = "8/255"
    augmentations: ClassVar[tuple[str, ...]] = ("crop",)
    mirror_changes_class: ClassVar[bool] = True
    files: ClassVar[str] = "*_32x32.mat"
    classes = 10
    shape = (3, 32, 32)

    def open(self, name: SplitName, *, root: Path, download: bool) -> torchvision.datasets.SVHN:
        return torchvision.datasets.SVHN(root, split=name, download=download)

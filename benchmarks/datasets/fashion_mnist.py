"""Fashion-MNIST, from Debian's package or as torchvision reads it."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import ClassVar

import torch
import torchvision
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.downloaded import Downloaded
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.core.errors import UserError

__all__ = ["FashionMnist"]


class FashionMnist(Downloaded):
    """Fashion-MNIST: articles of clothing, gray, 28 x 28; 60,000 train and 10,000 test.

    Attributes:
        debian: The folder of Debian's package ``dataset-fashion-mnist``, which is read first.
    """

    paper: ClassVar[str] = (
        "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, "
        "2017, arXiv 1708.07747"
    )
    epochs: ClassVar[int] = 5
    eps: ClassVar[str] = "0.1"
    files: ClassVar[str] = "FashionMNIST/raw"
    other_source: ClassVar[str | None] = "install Debian's package dataset-fashion-mnist"
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")
    classes = 10
    class_names = (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    shape = (1, 28, 28)

    def open(self, name: SplitName, *, root: Path, download: bool) -> torchvision.datasets.FashionMNIST:
        return torchvision.datasets.FashionMNIST(root, train=name == "train", download=download)

    def load(self, name: SplitName) -> Split:
        prefix = "train" if name == "train" else "t10k"
        images = self.debian / f"{prefix}-images-idx3-ubyte.gz"
        labels = self.debian / f"{prefix}-labels-idx1-ubyte.gz"
        if not (images.is_file() and labels.is_file()):
            return super().load(name)
        return TensorSplit(
            _read_idx(images, dimensions=3).unsqueeze(1),
            _read_idx(labels, dimensions=1).to(torch.int64),
            where=f"the images of {images}",
        )


def _read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Reads the uint8 array of a compressed IDX file: 0, 0, 8, the number of dimensions, each as big-endian int32, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}): install Debian's package dataset-fashion-mnist again"
        ) from None
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[offset : offset + 4], "big") for offset in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) - start != math.prod(shape):
        raise UserError(
            f"{path} is no IDX file of {dimensions} dimensions: install Debian's package dataset-fashion-mnist again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)

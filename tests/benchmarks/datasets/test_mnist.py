from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

from robustbench_cli.benchmarks.datasets.mnist import Mnist


def test_torchvisions_files_are_read(
    tmp_path: Path, idx_files: dict[str, bytes], gray: dict[str, np.ndarray], network: dict[str, bytes]
) -> None:
    """IDX files under MNIST/raw become images (N, 1, 28, 28) of value / 255, in the file's order."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files.items():
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    for split, word, n in (("train", "train", 7), ("test", "t10k", 5)):
        images, labels = Mnist(data_dir=tmp_path).split(split).batch(torch.arange(n))
        assert images.shape == (n, 1, 28, 28)
        assert np.array_equal((images[:, 0] * 255).round().numpy(), gray[f"{word}-images-idx3-ubyte"])
        assert labels.tolist() == gray[f"{word}-labels-idx1-ubyte"].tolist()

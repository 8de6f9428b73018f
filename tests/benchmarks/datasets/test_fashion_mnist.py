from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.datasets.fashion_mnist import FashionMnist
from robustbench_cli.core.errors import UserError


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idx_files: dict[str, bytes]) -> Path:
    """A folder as Debian's package has it."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name, content in idx_files.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(FashionMnist, "debian", folder)
    return folder


def test_debians_files_are_read(debian: Path, gray: dict[str, np.ndarray], network: dict[str, bytes]) -> None:
    """Compressed IDX files become images (N, 1, 28, 28) of value / 255, in the file's order."""
    for split, word, n in (("train", "train", 7), ("test", "t10k", 5)):
        images, labels = FashionMnist(data_dir=debian / "none").split(split).batch(torch.arange(n))
        assert images.shape == (n, 1, 28, 28)
        assert np.array_equal((images[:, 0] * 255).round().numpy(), gray[f"{word}-images-idx3-ubyte"])
        assert labels.tolist() == gray[f"{word}-labels-idx1-ubyte"].tolist()


def test_data_dir_is_used_without_debians_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: dict[str, bytes],
    idx_files: dict[str, bytes],
    known_idx: Callable[[type], None],
    gray: dict[str, np.ndarray],
) -> None:
    """Without Debian's package the data come from data_dir, and from the network where they are not there."""
    monkeypatch.setattr(FashionMnist, "debian", tmp_path / "absent")
    known_idx(torchvision.datasets.FashionMNIST)
    network.update(idx_files)
    assert FashionMnist(data_dir=tmp_path).split("train").labels.tolist() == gray["train-labels-idx1-ubyte"].tolist()
    assert (tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").is_file()


def test_missing_data_name_debians_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: dict[str, bytes]
) -> None:
    """Without files and network, the line also says which package of Debian has them."""
    monkeypatch.setattr(FashionMnist, "debian", tmp_path / "absent")
    with pytest.raises(UserError, match=r"--data-dir DIR .* or install Debian's package dataset-fashion-mnist"):
        FashionMnist(data_dir=tmp_path).split("test")


@pytest.mark.parametrize("cut", ["compressed", "content", "header"])
def test_damaged_files_are_named(debian: Path, idx_files: dict[str, bytes], cut: str) -> None:
    """A file of Debian's that is cut off, of another length or of another kind is named in one line."""
    file = debian / "t10k-images-idx3-ubyte.gz"
    labels = idx_files["t10k-labels-idx1-ubyte.gz"]
    file.write_bytes({"compressed": file.read_bytes()[:500], "content": b"no gzip", "header": labels}[cut])
    with pytest.raises(UserError, match=rf"^{file} .* install Debian's package dataset-fashion-mnist again$"):
        FashionMnist().split("test")


def test_the_names_of_the_classes_are_torchvisions() -> None:
    """In the order of the labels."""
    assert FashionMnist.class_names is not None
    assert [name.lower() for name in FashionMnist.class_names] == [
        name.lower() for name in torchvision.datasets.FashionMNIST.classes
    ]

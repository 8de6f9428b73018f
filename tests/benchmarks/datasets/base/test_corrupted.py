"""The published files of CIFAR-10-C and CIFAR-100-C, as made-up files of their layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.cifar10_c import Cifar10C
from robustbench_cli.benchmarks.datasets.cifar100_c import Cifar100C
from robustbench_cli.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of the published sizes, all black but for the first image of severity 3. The disk holds only what is written."""
    images = np.lib.format.open_memmap(tmp_path / "gaussian_noise.npy", "w+", np.uint8, (50_000, 32, 32, 3))
    images[20_000] = np.arange(32 * 32 * 3).reshape(32, 32, 3) % 256
    images.flush()
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10_000) % 10, 5).astype(np.uint8))
    return tmp_path


def test_a_severity_is_a_fifth_of_the_file(folder: Path) -> None:
    """Images are (C, H, W) in [0, 1], in the order of the test images."""
    split = Cifar10C(str(folder)).published("gaussian-noise", 3)
    images, labels = split.batch(torch.tensor([0, 1, 9_999]))
    assert len(split) == 10_000
    assert labels.tolist() == [0, 1, 9]
    assert images.shape == (3, 3, 32, 32)
    assert images[0, 1, 2, 5].item() == ((2 * 32 + 5) * 3 + 1) % 256 / np.float32(255)
    assert not images[1:].any()
    assert Cifar100C(str(folder)).published("gaussian-noise", 1).labels.max() == 9


def test_images_are_resized_as_those_of_other_data_sets(folder: Path) -> None:
    """The same 8-bit images of an .npz file are resized to the same pixels, in 8 bits."""
    images = np.load(folder / "gaussian_noise.npy", mmap_mode="r")[20_000:20_002]
    np.savez(folder / "same.npz", images=images, labels=np.array([0, 1]))
    published = load_dataset(f"cifar10-c:{folder}", image_size=48).published("gaussian-noise", 3)
    expected = load_dataset(f"npz:{folder}/same.npz", image_size=48).split("test").images(torch.tensor([0, 1]))
    assert torch.equal(published.images(torch.tensor([0, 1])), expected)


def test_errors(folder: Path) -> None:
    """A missing file, one of another size, type or kind, a label that is no class: one line each."""
    data = Cifar10C(str(folder))
    for name in ("train", "test"):
        with pytest.raises(UserError, match=r"train on the clean data set|corrupted images only"):
            data.split(name)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has no file fog.npy: it has gaussian-noise"):
        data.published("fog", 1)
    np.save(folder / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"fog.npy holds uint8 of shape \(5, 32, 32, 3\): give the published file, uint8 of"
    ):
        data.published("fog", 1)
    np.save(folder / "fog.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"fog.npy cannot be read \(.*\): download it again"):
        data.published("fog", 1)
    (folder / "fog.npy").write_bytes((folder / "labels.npy").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"fog.npy cannot be read"):
        data.published("fog", 1)
    (folder / "fog.npy").unlink()
    os.mkfifo(folder / "fog.npy")
    with pytest.raises(UserError, match=r"has no file fog.npy"):
        data.published("fog", 1)
    np.save(folder / "labels.npy", np.full(50_000, 10, np.uint8))
    with pytest.raises(UserError, match="has the label 10 at index 0: with 10 classes"):
        data.published("gaussian-noise", 2)
    with pytest.raises(UserError, match=r"^no folder .*: give cifar10-c:PATH, the folder of the unpacked files$"):
        Cifar10C(str(folder / "nothing"))

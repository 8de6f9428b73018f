from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.datasets.cifar100 import Cifar100


def test_torchvisions_copy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are stored as rows of 3 x 32 x 32 bytes, with fine labels."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(256, size=(4, 3072), dtype=np.uint8)
    for name, count in (("train", 4), ("test", 3)):
        (folder / name).write_bytes(pickle.dumps({"data": rows[:count], "fine_labels": [99, 0, 7, 3][:count]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {label}" for label in range(100)]}))
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    dataset = Cifar100(data_dir=tmp_path)
    images, labels = dataset.split("test").batch(torch.arange(3))
    assert torch.equal(images, torch.from_numpy(rows[:3]).reshape(3, 3, 32, 32) / 255)
    assert labels.tolist() == [99, 0, 7]
    assert (len(dataset.split("train")), dataset.classes, dataset.shape) == (4, 100, (3, 32, 32))


def test_the_names_of_the_classes() -> None:
    """100 of them, in the alphabetical order of the labels."""
    assert Cifar100.class_names is not None
    assert len(set(Cifar100.class_names)) == Cifar100.classes
    assert list(Cifar100.class_names) == sorted(Cifar100.class_names)

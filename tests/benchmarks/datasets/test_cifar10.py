from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.datasets.cifar10 import Cifar10
from robustbench_cli.benchmarks.datasets.cifar100 import Cifar100

KINDS = [(Cifar10, torchvision.datasets.CIFAR10, "labels"), (Cifar100, torchvision.datasets.CIFAR100, "fine_labels")]


def batch(seed: int, key: str, classes: int) -> dict[str, object]:
    """Four examples as the CIFAR pages describe them: rows of 1,024 red, 1,024 green and 1,024 blue values."""
    random = np.random.RandomState(seed)
    return {
        "data": random.randint(0, 256, (4, 3072)).astype(np.uint8),
        key: random.randint(0, classes, 4).tolist(),
    }


@pytest.mark.parametrize(("ours", "theirs", "key"), KINDS)
def test_pickled_batches_are_read(
    ours: type[Cifar10 | Cifar100],
    theirs: type[torchvision.datasets.CIFAR10],
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: dict[str, bytes],
) -> None:
    """The archive is fetched, its MD5 sum checked, and its batches become images (N, 3, 32, 32) in the files' order."""
    names = [name for name, _ in (*theirs.train_list, *theirs.test_list)]
    contents: dict[str, dict[str, object]] = {name: batch(seed, key, ours.classes) for seed, name in enumerate(names)}
    contents[theirs.meta["filename"]] = {theirs.meta["key"]: [f"class {k}" for k in range(ours.classes)]}
    archive = io.BytesIO()
    sums = {}
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            data = pickle.dumps(content, protocol=2)
            sums[name] = hashlib.md5(data).hexdigest()
            entry = tarfile.TarInfo(f"{theirs.base_folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    network[theirs.filename] = archive.getvalue()
    monkeypatch.setattr(theirs, "tgz_md5", hashlib.md5(archive.getvalue()).hexdigest())
    monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name, _ in theirs.train_list])
    monkeypatch.setattr(theirs, "test_list", [[name, sums[name]] for name, _ in theirs.test_list])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": sums[theirs.meta["filename"]]})

    dataset = ours(data_dir=tmp_path)
    for split, listed in (("train", theirs.train_list), ("test", theirs.test_list)):
        rows = np.concatenate([contents[name]["data"] for name, _ in listed])
        images, labels = dataset.split(split).batch(torch.arange(len(rows)))
        assert np.array_equal((images * 255).round().numpy(), rows.reshape(-1, 3, 32, 32))
        assert labels.tolist() == [label for name, _ in listed for label in contents[name][key]]


def test_the_names_of_the_classes() -> None:
    """10 of them, in the alphabetical order of the labels."""
    assert Cifar10.class_names is not None
    assert len(set(Cifar10.class_names)) == Cifar10.classes
    assert list(Cifar10.class_names) == sorted(Cifar10.class_names)

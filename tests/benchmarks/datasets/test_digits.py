from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from robustbench_cli.benchmarks.datasets.base.load import load_dataset


def test_splits_are_all_digits_once() -> None:
    """1,297 train and 500 test examples are together scikit-learn's 1,797, each once, divided by 16."""
    digits = load_dataset("digits")
    train, test = digits.split("train"), digits.split("test")
    assert (len(train), len(test)) == (1297, 500)
    images = torch.cat([split.batch(torch.arange(len(split)))[0] for split in (train, test)])
    labels = torch.cat([train.labels, test.labels])
    found = torch.cat([(images * 16).flatten(1), labels[:, None]], dim=1).int().tolist()
    pixels, targets = load_digits(return_X_y=True)
    assert sorted(found) == sorted([*map(int, row), int(target)] for row, target in zip(pixels, targets, strict=True))


def test_images_are_floats_of_sixteenths() -> None:
    """Every pixel is exactly k/16, from 0 to 1, of shape (1, 8, 8)."""
    images, _ = load_dataset("digits").split("test").batch(torch.arange(500))
    assert images.shape == (500, 1, 8, 8)
    assert images.dtype == torch.float32
    assert set(images.unique().tolist()) == {k / 16 for k in range(17)}

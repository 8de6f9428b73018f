from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
import torch

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.core.errors import UserError


def split_of(images: torch.Tensor, labels: list[int]) -> TensorSplit:
    """A split of these examples."""
    return TensorSplit(images, torch.tensor(labels))


def test_it_is_the_first_ones_in_order() -> None:
    """The slice holds the first n images, and their labels."""
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    chosen = first_examples(split_of(images, [5, 4, 3, 2, 1, 0]), 4)
    assert (chosen.images.flatten() * 255).round().tolist() == [0, 1, 2, 3]
    assert chosen.labels.tolist() == [5, 4, 3, 2]
    assert len(chosen) == 4


def test_more_than_there_are_takes_all() -> None:
    """N above the split's size gives the whole split, and the slice says how many."""
    assert len(first_examples(split_of(torch.zeros(3, 1, 2, 2), [0, 1, 2]), 1000)) == 3


def test_none_is_refused() -> None:
    """N below 1 is a mistake of the user."""
    with pytest.raises(UserError, match="n is 0"):
        first_examples(split_of(torch.zeros(3, 1, 2, 2), [0, 1, 2]), 0)


def test_hash_is_of_shape_floats_and_labels() -> None:
    """The hash is the sha256 of the shape as JSON, little-endian float32 values and little-endian int64 labels."""
    values = [0.0, 0.25, 0.5, 0.75, 1.0, 0.125]
    chosen = first_examples(split_of(torch.tensor(values).reshape(2, 3, 1, 1), [7, 1]), 2)
    expected = hashlib.sha256(b"[2, 3, 1, 1]" + struct.pack("<6f", *values) + struct.pack("<2q", 7, 1))
    assert chosen.sha256 == expected.hexdigest()


def test_bytes_and_floats_of_the_same_values_have_one_hash() -> None:
    """How a data set stores its pixels is no part of the identity."""
    pixels = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    as_floats = pixels.to(torch.float32) / 255
    assert first_examples(split_of(pixels, [0, 1]), 2).sha256 == first_examples(split_of(as_floats, [0, 1]), 2).sha256


def test_hash_of_the_digits_is_known() -> None:
    """The evaluated digits are the same images in the same order on every machine and in every version."""
    test = load_dataset("digits").split("test")
    assert first_examples(test, 500).sha256 == "2ec58c617b9583cbf5612439726d38c644efdf40174d029148d5e83ca759d3a0"


@pytest.mark.parametrize(
    ("split", "keywords", "line"),
    [
        (load_dataset("digits"), {"n": 3}, r"the split is a Digits: give one of its splits, dataset\.split\('test'\)"),
        (torch.zeros(3), {"n": 3}, "the split is a Tensor: give"),
        (split_of(torch.zeros(3, 1, 2, 2), [0, 1, 2]), {"n": 2.5}, "n is 2.5: at least one image is needed"),
        (split_of(torch.zeros(3, 1, 2, 2), [0, 1, 2]), {"n": "all"}, "n is 'all'"),
        (split_of(torch.zeros(3, 1, 2, 2), [0, 1, 2]), {"number": 3}, "first_examples has no parameter 'number'"),
    ],
)
def test_wrong_arguments_are_one_line(split: Any, keywords: dict[str, Any], line: str) -> None:
    """From Python, what is no split and no number is told so."""
    with pytest.raises(UserError, match=f"^{line}"):
        first_examples(split, **keywords)

from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.core.errors import UserError


def test_bytes_become_floats_by_255() -> None:
    """All 256 values of a byte become the float32 nearest to value / 255."""
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    batch, labels = TensorSplit(images, torch.tensor([0, 1, 0, 1])).batch(torch.tensor([3, 0]))
    values = torch.tensor([value / 255 for value in range(256)], dtype=torch.float64).to(torch.float32)
    assert torch.equal(batch, values.reshape(4, 1, 8, 8)[[3, 0]])
    assert labels.tolist() == [1, 0]


def test_floats_are_kept() -> None:
    """Floats in [0, 1], both ends included, come out with their values, as float32."""
    images = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    batch, _ = TensorSplit(images, torch.tensor([0])).batch(torch.tensor([0]))
    assert batch.dtype == torch.float32
    assert batch.flatten().tolist() == [0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 2, 2), 1.0000001, dtype=torch.float64), "reach from 1.0000001 to 1.0000001"),
        (torch.full((2, 1, 2, 2), -0.5), "reach from -0.5"),
        (torch.full((2, 1, 2, 2), torch.nan), "hold NaN"),
        (torch.full((2, 1, 2, 2), torch.inf), "reach from inf to inf"),
        (torch.zeros((2, 1, 2, 2), dtype=torch.int64), "of type torch.int64"),
        (torch.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (torch.zeros((0, 1, 2, 2)), r"shape \(0, 1, 2, 2\)"),
        (torch.zeros((3, 1, 2, 2)), "are 3, their labels 2"),
    ],
)
def test_what_is_no_image_is_refused(images: torch.Tensor, message: str) -> None:
    """Each kind of wrong image array is named in one line."""
    with pytest.raises(UserError, match=message) as caught:
        TensorSplit(images, torch.tensor([0, 1]), where="the images of x.npz")
    assert str(caught.value).startswith("the images of x.npz")
    assert "\n" not in str(caught.value)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.evaluation import device_images as module
from robustbench_cli.benchmarks.evaluation.device_images import DeviceImages

LEVELS = torch.randint(256, (300, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ELSEWHERE = torch.device("meta")
"""A device without values, which shows what moves there."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes that may stay on the device."""
    return lambda most: monkeypatch.setattr(module, "may_stay", lambda size, device: size <= most)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_8_bits_come_back_to_the_last_bit(dtype: torch.dtype) -> None:
    """For all 256 levels, as the host divides them by 255."""
    images = torch.cat([LEVELS, torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)]).to(dtype) / 255
    levels, values = module._levels(images)
    assert levels is not None
    assert torch.equal(levels[:300], LEVELS)
    assert torch.equal(values[levels.int()], images)


def test_other_images_are_not_rounded() -> None:
    """One pixel between two levels is enough, also among the last images."""
    images = LEVELS.float() / 255
    images[-1, 0, 0, 0] = 0.3
    assert module._levels(images)[0] is None


def test_images_that_are_there_stay_as_they_are() -> None:
    """On the host, batches are cut from the images themselves."""
    images = torch.rand(9, 1, 4, 4)
    indices = torch.tensor([3, 1, 8])
    assert torch.equal(DeviceImages(images, torch.device("cpu")).batch(indices), images[indices])


@pytest.mark.parametrize(
    ("images", "most", "stored"),
    [
        (LEVELS.float() / 255, 300 * 16, ("meta", torch.uint8)),
        (LEVELS.float() / 255, 300 * 16 - 1, ("cpu", torch.float32)),
        (LEVELS.float() / 300, 300 * 16 * 4, ("meta", torch.float32)),
    ],
)
def test_images_move_once_where_they_fit(
    memory: Callable[[int], None], images: Tensor, most: int, stored: tuple[str, torch.dtype]
) -> None:
    """In 8 bits where they are of 8 bits; batches are floats on the device in any case."""
    memory(most)
    moved = DeviceImages(images, ELSEWHERE)
    assert (moved._images.device.type, moved._images.dtype) == stored
    batch = moved.batch(torch.arange(5))
    assert (batch.device.type, batch.dtype, batch.shape) == ("meta", torch.float32, (5, 1, 4, 4))

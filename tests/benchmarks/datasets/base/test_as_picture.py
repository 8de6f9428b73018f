from __future__ import annotations

import numpy as np
import pytest
from torchvision.transforms.functional import to_pil_image

from robustbench_cli.benchmarks.datasets.base.as_picture import as_picture


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_that_of_torchvision(channels: int) -> None:
    """Gray and color, also from channels that come first in memory."""
    pixels = np.random.RandomState(0).randint(0, 256, (channels, 4, 5)).astype(np.uint8).transpose(1, 2, 0)
    ours, theirs = as_picture(pixels), to_pil_image(pixels)
    assert ours.mode == theirs.mode
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))

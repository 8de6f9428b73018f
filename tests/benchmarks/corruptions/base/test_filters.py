"""The filters against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from robustbench_cli.benchmarks.corruptions.base import filters
from robustbench_cli.benchmarks.corruptions.base.filters import Border

SCIPY: dict[Border, str] = {"edge": "nearest", "symmetric": "reflect", "reflect": "mirror"}
"""What SciPy calls the borders."""


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("sigma", [0.05, 0.7, 6])
def test_gaussian_blur(images: Tensor, border: Border, sigma: float) -> None:
    """The same as gaussian_filter, also where the kernel is far larger than the image."""
    blurred = filters.gaussian_blur(images, sigma, border=border, truncate=3)
    expected = ndimage.gaussian_filter(images.numpy(), sigma, mode=SCIPY[border], truncate=3, axes=(2, 3))
    np.testing.assert_allclose(blurred, expected, atol=1e-12)


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("size", [1, 3, 21])
def test_convolve(images: Tensor, border: Border, size: int) -> None:
    """The same as correlate, with kernels larger than the image too."""
    kernel = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = ndimage.correlate(images.numpy(), kernel.numpy()[None, None], mode=SCIPY[border])
    np.testing.assert_allclose(filters.convolve(images, kernel, border=border), expected, atol=1e-11)


@pytest.mark.parametrize("border", ["symmetric", "reflect"])
def test_sample(images: Tensor, border: Border) -> None:
    """The same as map_coordinates of order 1, at points inside and far outside."""
    generator = torch.Generator().manual_seed(2)
    rows, columns = (60 * torch.rand(2, 9, 14, dtype=torch.float64, generator=generator) - 25 for _ in range(2))
    sampled = filters.sample(images, rows, columns, border=border)  # type: ignore[arg-type]
    for index in range(2):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                images[index, channel].numpy(), [rows[index], columns[index]], order=1, mode=SCIPY[border]
            )
            np.testing.assert_allclose(sampled[index, channel], expected, atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 1.05, 2.25])
def test_zoom(images: Tensor, factor: float) -> None:
    """The same as scipy.ndimage.zoom of the middle, cut to the image's size."""
    cut = [int(np.ceil(size / factor)) for size in (9, 14)]
    start = [(size - kept) // 2 for size, kept in zip((9, 14), cut, strict=True)]
    middle = images.numpy()[:, :, start[0] : start[0] + cut[0], start[1] : start[1] + cut[1]]
    enlarged = ndimage.zoom(middle, (1, 1, factor, factor), order=1)
    top, left = ((enlarged.shape[axis] - size) // 2 for axis, size in ((2, 9), (3, 14)))
    expected = enlarged[:, :, top : top + 9, left : left + 14]
    np.testing.assert_allclose(filters.zoom(images, factor), expected, atol=1e-12)


def test_motion_blur_along_a_row(images: Tensor) -> None:
    """At an angle of 0 it is a correlation with half a Gaussian along the rows, at the image's edge with its last pixel."""
    weights = np.exp(-(np.arange(7) ** 2) / (2 * 2.0**2))
    kernel = np.concatenate([np.zeros(6), weights / weights.sum()])[None, None, None]
    blurred = filters.motion_blur(images, torch.zeros(2), radius=3, sigma=2)
    np.testing.assert_allclose(blurred, ndimage.correlate(images.numpy(), kernel, mode="nearest"), atol=1e-12)


def test_motion_blur_has_a_direction_for_each_image(images: Tensor) -> None:
    """Images with different angles in one batch are blurred as alone."""
    angles = torch.tensor([-30.0, -100.0])
    together = filters.motion_blur(images, angles, radius=5, sigma=3)
    for index in range(2):
        alone = filters.motion_blur(images[index : index + 1], angles[index : index + 1], radius=5, sigma=3)
        assert torch.equal(together[index], alone[0])

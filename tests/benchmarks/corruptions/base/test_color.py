"""Brightness and saturation against the standard library's color spaces."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.corruptions.base.color import luminance, with_saturation, with_value


@pytest.fixture
def pixels() -> Tensor:
    """``(1, 3, 1, 30)``: random colors, with black, white and a gray among them."""
    colors = torch.rand(1, 3, 1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    colors[..., 0], colors[..., 1], colors[..., 2] = 0, 1, 0.4
    return colors


def test_a_new_value(pixels: Tensor) -> None:
    """As through HSV."""
    value = (pixels.amax(dim=1, keepdim=True) + 0.3).clamp(max=1)
    changed = with_value(pixels, value)
    for index in range(30):
        hue, saturation, _ = colorsys.rgb_to_hsv(*pixels[0, :, 0, index].tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, value[0, 0, 0, index].item())
        assert changed[0, :, 0, index].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("factor", "added"), [(0.3, 0.0), (5.0, 0.1)])
def test_a_new_saturation(pixels: Tensor, factor: float, added: float) -> None:
    """As through HSV, in which gray has the hue of red."""
    changed = with_saturation(pixels, factor=factor, added=added)
    for index in range(30):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[0, :, 0, index].tolist())
        expected = colorsys.hsv_to_rgb(hue, min(1, saturation * factor + added), value)
        assert changed[0, :, 0, index].tolist() == pytest.approx(expected)


def test_gray_images(pixels: Tensor) -> None:
    """They have no saturation, and are their own luminance; that of colors is of ITU-R BT.601, as in YIQ."""
    gray = pixels[:, :1]
    assert torch.equal(with_saturation(gray, factor=2.0, added=0.5), gray)
    assert torch.equal(luminance(gray), gray)
    for index in range(30):
        y, _, _ = colorsys.rgb_to_yiq(*pixels[0, :, 0, index].tolist())
        assert luminance(pixels)[0, 0, 0, index].item() == pytest.approx(y, abs=0.02)

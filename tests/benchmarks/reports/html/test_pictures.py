from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from robustbench_cli.benchmarks.reports.html.pictures import (
    BROKEN,
    CATEGORIES,
    category_strip,
    magnified,
    share_strip,
    side_by_side,
)


def pixels(address: str) -> np.ndarray:
    """The picture in an address, as Pillow reads it: ``(H, W, 4)``."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))).convert("RGBA"))


@pytest.mark.parametrize("draws", [1, 2, 10, 15])
def test_a_strip_is_as_opaque_as_an_image_is_wrong(draws: int) -> None:
    """Clear where all draws are right, full where none is, and always in one color."""
    broken = np.arange(draws + 1) / draws
    (row,) = pixels(share_strip(broken))
    assert row[:, 3].tolist() == [17 * round(15 * share) for share in broken]
    assert {tuple(pixel[:3]) for pixel in row} == {BROKEN}


def test_a_strip_of_a_thousand_images_is_small() -> None:
    """An image whose outcome is certain takes one bit."""
    rng = np.random.default_rng(0)
    assert len(share_strip((rng.random(1000) < 0.5).astype(float))) < 400
    assert len(share_strip(np.sort(rng.integers(0, 11, 1000))[::-1] / 10)) < 400


def test_each_attack_has_a_color() -> None:
    """Right images are clear, and attacks beyond the colors share the last one."""
    chosen = np.array([-1, *range(8)])
    (row,) = pixels(category_strip(chosen, np.ones(9)))
    last = CATEGORIES[-1]
    assert row[0, 3] == 0
    assert [tuple(pixel) for pixel in row[1:]] == [(*color, 255) for color in (*CATEGORIES, last, last)]
    (row,) = pixels(category_strip(np.array([0, 1]), np.array([0.2, 1.0])))
    assert row[:, 3].tolist() == [51, 255]


def test_a_perturbation_is_magnified_around_gray() -> None:
    """Its largest pixel becomes black or white, and no change is gray."""
    clean = np.full((2, 2, 1), 100, dtype=np.uint8)
    perturbed = clean + np.array([[[0], [4]], [[2], [1]]], dtype=np.uint8)
    picture, factor = magnified(clean, perturbed)
    assert factor == 127 / 4
    assert picture[:, :, 0].tolist() == [[128, 255], [192, 160]]
    assert magnified(clean, clean)[0].tolist() == np.full((2, 2, 1), 128).tolist()


@pytest.mark.parametrize(("side", "channels", "shown"), [(8, 1, 8), (32, 3, 32), (224, 3, 96), (10, 2, 10)])
def test_pictures_stand_beside_each_other(side: int, channels: int, shown: int) -> None:
    """In their own pixels where they are small; other channels than gray and color as their mean."""
    parts = [np.full((side, side, channels), value, dtype=np.uint8) for value in (0, 128, 255)]
    address, width, height = side_by_side(parts)
    whole = pixels(address)
    gap = max(1, shown // 16)
    assert whole.shape == (height, width, 4) == (shown, 3 * shown + 2 * gap, 4)
    centers = [index * (shown + gap) + shown // 2 for index in range(3)]
    assert [whole[shown // 2, center, 0] for center in centers] == [0, 128, 255]
    assert whole[0, shown, 3] == 0

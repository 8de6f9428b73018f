from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages, levels, rounded
from robustbench_cli.core.errors import UserError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(20, 3, 6, 6, generator=GENERATOR)
PERTURBED = (IMAGES + 0.2 * torch.randn(20, 3, 6, 6, generator=GENERATOR)).clamp(0, 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("eps", [0.0, 1 / 255, 8 / 255, 0.1, 3.0])
def test_rounded_images_stay_in_the_ball(norm: Norm, eps: float) -> None:
    """Their distance from the rounded image, in units of 1/255 where it is exact, is within the radius."""
    found = rounded(PERTURBED, IMAGES, norm=norm, eps=eps)
    moved = found.double() - levels(IMAGES).double()
    assert (distance(moved, torch.zeros_like(moved), norm) <= eps * 255 * (1 + 1e-9)).all()


def test_a_corner_of_the_ball_stays_one() -> None:
    """A perturbation of exactly 8/255 at every pixel of an image of 8 bits loses nothing."""
    clean = levels(IMAGES).clamp(8, 247)
    found = rounded((clean + 8) / 255, clean / 255, norm="linf", eps=8 / 255)
    assert torch.equal(found, clean + 8)
    assert torch.equal(rounded(PERTURBED, IMAGES, norm="l2", eps=None), (PERTURBED * 255).round().to(torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_what_was_scored(channels: int, tmp_path: Path) -> None:
    """The pictures, read by another library, are the array's images; their names say label and prediction."""
    generator = np.random.default_rng(0)
    clean, perturbed = generator.integers(0, 256, (2, 3, 5, 5, channels), dtype=np.uint8)
    saved = SavedImages(
        images=clean, perturbed=perturbed, labels=np.array([1, 2, 3]), predictions=np.array([[1, 0, -1], [1, 2, 3]])
    )
    saved.write(tmp_path, "cell")
    names = sorted(path.name for path in (tmp_path / "cell").iterdir())
    assert names == [
        "00000_label_1_predicted_1.png",
        "00001_label_2_predicted_0.png",
        "00002_label_3_predicted_-1.png",
    ]
    for name, image in zip(names, perturbed, strict=True):
        with Image.open(tmp_path / "cell" / name) as picture:
            assert np.array_equal(np.asarray(picture).reshape(image.shape), image)
    again = SavedImages.read(tmp_path, "cell")
    assert np.array_equal(again.perturbed, perturbed)
    assert again.saliency is None
    replace(saved, saliency=clean[:, :, :, 0]).write(tmp_path, "cell")
    assert np.array_equal(SavedImages.read(tmp_path, "cell").saliency, clean[:, :, :, 0])
    assert again.robust_accuracy == pytest.approx(5 / 6)


def test_to_reject_is_right_where_the_attack_has_changed_the_image() -> None:
    """Of two rejected images one was left as it is: a detector that rejects clean images gains nothing by it."""
    clean = np.zeros((2, 3, 3, 1), dtype=np.uint8)
    perturbed = clean.copy()
    perturbed[0, 0, 0, 0] = 1
    saved = SavedImages(
        images=clean, perturbed=perturbed, labels=np.array([1, 1]), predictions=np.array([[REJECTED, REJECTED]])
    )
    assert saved.robust_accuracy == 0.5


@pytest.mark.parametrize("content", [b"", b"<html>", "half", "changed", None])
def test_a_damaged_file_is_one_line(content: bytes | str | None, tmp_path: Path) -> None:
    """A file that is cut short, overwritten, changed or gone is named, with the way out."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 1), dtype=np.uint8)
    answers = np.array([1, 2, 3])
    SavedImages(images=pixels, perturbed=pixels, labels=answers, predictions=answers[None]).write(tmp_path, "cell")
    path = tmp_path / "cell.npz"
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else whole[:60] + b"????" + whole[64:])
    with pytest.raises(UserError, match=r"cell\.npz is missing or damaged"):
        SavedImages.read(tmp_path, "cell")


@pytest.mark.parametrize(
    "other",
    [
        {"labels": np.array(3)},
        {"images": np.full((3, 5, 5, 1), np.nan)},
        {"predictions": np.array([1, 2, 3])},
        {"perturbed": np.zeros((3, 5, 5, 3), np.uint8)},
        {"images": np.zeros((3, 5, 5, 2), np.uint8), "perturbed": np.zeros((3, 5, 5, 2), np.uint8)},
        {"more": np.array(3)},
        {"saliency": np.zeros((3, 5, 4), np.uint8)},
        {"saliency": np.zeros((3, 5, 5))},
        {"images": np.zeros((3, 9000, 9000, 1), np.uint8)},
    ],
)
def test_other_arrays_are_no_images(other: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Neither other shapes and types, nor what would unpack to far more than images do."""
    pixels = np.zeros((3, 5, 5, 1), np.uint8)
    arrays = {"images": pixels, "perturbed": pixels, "labels": np.arange(3), "predictions": np.array([[0, 1, 2]])}
    np.savez_compressed(tmp_path / "cell.npz", **arrays)
    SavedImages.read(tmp_path, "cell")
    np.savez_compressed(tmp_path / "cell.npz", **(arrays | other))
    with pytest.raises(UserError, match=r"cell\.npz is missing or damaged"):
        SavedImages.read(tmp_path, "cell")


def test_a_pipe_holds_no_images(tmp_path: Path) -> None:
    """It would block."""
    os.mkfifo(tmp_path / "cell.npz")
    with pytest.raises(UserError, match=r"cell\.npz is missing or damaged \(.*it is a pipe"):
        SavedImages.read(tmp_path, "cell")

"""ImageNet-C, as made-up files of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.imagenet_c import ImageNetC
from robustbench_cli.core.errors import UserError

SYNSETS = {"n01440764": 0, "n01443537": 1, "n15075141": 999}


@pytest.fixture(params=["", "weather"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Images of one gray value for each corruption, severity, class and number."""
    for start, corruption in ((0, "fog"), (100, "jpeg_compression")):
        for severity in range(1, 6):
            for synset, label in SYNSETS.items():
                place = tmp_path / request.param / corruption / str(severity) / synset
                place.mkdir(parents=True)
                for number in range(2):
                    value = start + 10 * severity + 2 * min(label, 2) + number
                    Image.new("RGB", (8, 8), (value, value, value)).save(place / f"{number}.png")
    return tmp_path


def test_a_severity_is_a_folder(folder: Path) -> None:
    """Labels are torchvision's, and every corruption has the same images in the same order."""
    data = load_dataset(f"imagenet-c:{folder}")
    fog, jpeg = data.published("fog", 3), data.published("jpeg-compression", 5)
    assert (data.classes, data.shape, data.only_corrupted) == (1000, (3, 8, 8), True)
    assert sorted(fog.labels.tolist()) == [0, 0, 1, 1, 999, 999]
    assert torch.equal(fog.labels, jpeg.labels)
    values = (fog.first(6)[0][:, 0, 0, 0] * 255).round().long()
    assert (values // 2).tolist() == [15 + min(label, 2) for label in fog.labels.tolist()]
    assert ((jpeg.first(6)[0][:, 0, 0, 0] * 255).round().long() - values).tolist() == [120] * 6


def test_the_images_are_preprocessed(folder: Path) -> None:
    """By the options of any data set."""
    data = load_dataset(f"imagenet-c:{folder}?image_size=4")
    assert data.shape == data.published("fog", 1).first(2)[0].shape[1:] == (3, 4, 4)


def test_the_order_depends_on_the_names(folder: Path) -> None:
    """Without one image the others keep their order; a single folder that lacks it is refused."""
    before = load_dataset(f"imagenet-c:{folder}").published("fog", 3).first(6)[0]
    paths = sorted(folder.rglob("n01443537/1.png"))
    next(path for path in paths if "fog/3" in str(path)).unlink()
    with pytest.raises(UserError, match=r"fog/3 and .*fog/1 differ in 1 files, such as n01443537/1\.png: give each"):
        ImageNetC(str(folder)).published("fog", 3)
    for path in paths:
        path.unlink(missing_ok=True)
    after = ImageNetC(str(folder)).published("fog", 3).first(5)[0]
    assert torch.equal(after, torch.stack([image for image in before if round(float(image[0, 0, 0]) * 255) != 33]))


def test_errors(folder: Path, tmp_path: Path) -> None:
    """One line for another corruption, a missing severity, clean images and a folder without any."""
    data = load_dataset(f"imagenet-c:{folder}")
    with pytest.raises(UserError, match=r"has no folder frost: did you mean 'fog'|has no folder frost: it has fog"):
        data.published("frost", 1)
    for path in sorted(folder.rglob("fog/2/*/*")):
        path.unlink()
    with pytest.raises(UserError, match=r"has no images of n01440764|no images"):
        data.published("fog", 2)
    with pytest.raises(UserError, match="corrupted images only"):
        data.split("test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no folder CORRUPTION/1: give imagenet-c:PATH"):
        load_dataset(f"imagenet-c:{tmp_path / 'empty'}")

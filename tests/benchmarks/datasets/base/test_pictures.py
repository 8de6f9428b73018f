from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base import pictures
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.core.errors import Choice, UserError
from robustbench_cli.core.regular_file import open_regular


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve JPEG photographs of different sizes in two classes, for both splits."""
    random = np.random.RandomState(0)
    for number in range(12):
        path = tmp_path / "val" / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.randint(0, 256, (random.randint(20, 60), random.randint(20, 60), 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "train").symlink_to(tmp_path / "val")
    return tmp_path


def order(folder: Path) -> list[Path]:
    """The files in the order of the split: by class and name, then permuted by their number."""
    paths = sorted(folder.glob("val/*/*"))
    return [paths[index] for index in np.random.RandomState(0).permutation(len(paths))]


def test_files_of_several_sizes_are_what_torchvision_makes_of_them(folder: Path) -> None:
    """Threads change neither the order nor a pixel."""
    split = load_dataset(f"imagefolder:{folder}", image_size=16, resize=18).split("test")
    images, labels = split.first(12)
    paths = order(folder)
    reference = Compose([Resize(18), CenterCrop(16)])
    assert torch.equal(images, torch.stack([to_tensor(reference(Image.open(path))) for path in paths]))
    assert labels.tolist() == [int(path.parent.name == "b") for path in paths]


def test_only_the_first_images_are_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large folder, the images that are evaluated are read, once, and no others."""
    split = load_dataset(f"imagefolder:{folder}?image_size=9").split("test")
    opened: list[str] = []
    monkeypatch.setattr(pictures, "open_regular", lambda path: opened.append(path) or open_regular(path))
    first = first_examples(split, 5)
    assert sorted(opened) == sorted(map(str, order(folder)[:5]))
    assert first_examples(split, 5).sha256 == first.sha256
    assert len(first_examples(split, 3)) == 3
    assert len(opened) == 5


def test_a_bad_image_is_named_or_left_out(folder: Path) -> None:
    """A cut-off file stops the reading, or the next image takes its turn: n images, as if the file were not there."""
    paths = order(folder)
    for path in (paths[0], paths[3]):
        path.write_bytes(path.read_bytes()[:300])
    name = f"imagefolder:{folder}?image_size=16"
    with pytest.raises(UserError, match=rf"^{paths[0]} cannot be read as an image"):
        load_dataset(name).split("test")
    split = load_dataset(f"{name}&on_bad_image=skip").split("test")
    with pytest.warns(Choice, match=rf"on_bad_image=skip: 2 images left out, the first one: {paths[0]} cannot be read"):
        images = first_examples(split, 6).images
    labels = split.first(6)[1]
    good = [path for path in paths if path not in (paths[0], paths[3])]
    reference = Compose([Resize(16), CenterCrop(16)])
    assert torch.equal(images, torch.stack([to_tensor(reference(Image.open(path))) for path in good[:6]]))
    assert labels.tolist() == [int(path.parent.name == "b") for path in good[:6]]
    assert len(split.first(12)[1]) == 10


def test_training_leaves_bad_images_out_too(folder: Path) -> None:
    """A training asks for images in any order, and finds only such that can be read."""
    order(folder)[5].write_bytes(b"nothing")
    dataset = load_dataset(f"imagefolder:{folder}", image_size=8, on_bad_image="skip")
    train = dataset.split("train")
    assert len(train) == 11
    assert "one image left out" in train.left_out
    assert train.batch(torch.arange(11))[0].shape == (11, 3, 8, 8)
    with pytest.raises(UserError, match="cannot be read as an image"):
        load_dataset(f"imagefolder:{folder}", image_size=8).split("train").batch(torch.arange(12))


def test_a_folder_without_a_single_good_image(folder: Path) -> None:
    """Where all images are bad, leaving them out leaves nothing: the first one is named."""
    for path in order(folder):
        path.write_bytes(b"nothing")
    for options in ("on_bad_image=skip", "image_size=8&on_bad_image=skip"):
        with pytest.raises(UserError, match=r"cannot be read as an image: save it as one of PNG"):
            load_dataset(f"imagefolder:{folder}?{options}").split("test")


def test_the_largest_images_are_bounded(tmp_path: Path) -> None:
    """An image that is made smaller may be as large as ImageNet's largest, and no larger."""
    (tmp_path / "a").mkdir()
    Image.new("1", (6000, 5000)).save(tmp_path / "a" / "0.png")
    assert load_dataset(f"imagefolder:{tmp_path}?image_size=8").split("test").first(1)[0].sum() == 0
    Image.new("1", (9000, 8000)).save(tmp_path / "a" / "0.png")
    with pytest.raises(UserError, match="has 9000 x 8000 pixels: an image may have 67,108,864"):
        load_dataset(f"imagefolder:{tmp_path}?image_size=9").split("test")


def test_gray_pictures_for_a_gray_model(folder: Path) -> None:
    """Files are read as RGB, or as Pillow's gray values with one channel."""
    images, _ = load_dataset(f"imagefolder:{folder}?channels=1&image_size=16").split("test").first(2)
    expected = [to_tensor(CenterCrop(16)(Resize(16)(Image.open(path).convert("L")))) for path in order(folder)[:2]]
    assert torch.equal(images, torch.stack(expected))

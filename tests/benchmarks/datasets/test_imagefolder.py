from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.benchmarks.datasets.imagefolder import ImageFolder


def write(folder: Path, name: str, value: int, *, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """A file of one colour, ``size`` (width, height), whose first channel is ``value``."""
    folder.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value, 100, 200)
    Image.new(mode, size, colour).save(folder / name)
    return folder / name


def fill(root: Path, *, each: int = 10) -> None:
    """Two classes: cats of red 0, 1, …; dogs of red 100, 101, …."""
    for k in range(each):
        write(root / "cat", f"{k:02}.png", k)
        write(root / "dog", f"{k:02}.png", 100 + k)


def test_train_and_test(tmp_path: Path) -> None:
    """Both splits are read, with the folders' names as classes, each image with its own label."""
    fill(tmp_path / "train", each=6)
    fill(tmp_path / "test")
    dataset = ImageFolder(str(tmp_path))
    assert (dataset.classes, dataset.shape) == (2, (3, 4, 6))
    for split, each in (("train", 6), ("test", 10)):
        images, labels = dataset.split(split).batch(torch.arange(2 * each))
        assert images.shape == (2 * each, 3, 4, 6)
        red = (images[:, 0, 0, 0] * 255).round().int()
        assert sorted(red.tolist()) == [*range(each), *range(100, 100 + each)]
        assert torch.equal(labels, (red >= 100).long())
        assert torch.equal((images[:, 1:, 1, 1] * 255).round().int(), torch.tensor([[100, 200]] * (2 * each)).int())


def test_the_order_is_shuffled_and_fixed(tmp_path: Path) -> None:
    """The first examples are of all classes, and the same each time."""
    fill(tmp_path / "val")
    first = ImageFolder(str(tmp_path)).split("test").labels
    assert 0 < first[:8].sum() < 8
    assert torch.equal(first, ImageFolder(str(tmp_path)).split("test").labels)


def test_class_folders_alone_are_the_test_split(tmp_path: Path) -> None:
    """A folder of class folders has a test split, and says why it has no other."""
    fill(tmp_path)
    dataset = ImageFolder(str(tmp_path))
    assert len(dataset.split("test")) == 20
    with pytest.raises(UserError, match="all its images are the test split and none are left to train on"):
        dataset.split("train")


def test_images_of_two_sizes_name_two_files(tmp_path: Path) -> None:
    """Two sizes are refused when the image is needed, not silently resized."""
    fill(tmp_path)
    odd = write(tmp_path / "dog", "odd.png", 5, size=(7, 4))
    split = ImageFolder(str(tmp_path)).split("test")
    with pytest.raises(UserError, match=rf"^{odd} is 7 x 4 and {tmp_path}/cat/00.png is 6 x 4: .* resize the files"):
        split.batch(torch.arange(21))


def test_grey_files_become_three_channels(tmp_path: Path) -> None:
    """A grey image among colour ones is read with three equal channels, as torchvision does."""
    write(tmp_path / "a", "0.png", 51)
    write(tmp_path / "b", "0.png", 51, mode="L")
    images, labels = ImageFolder(str(tmp_path)).split("test").batch(torch.arange(2))
    assert np.allclose(images[labels == 1].numpy(), 0.2)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """An image of 16 bits is refused where a conversion would cut its values off."""
    write(tmp_path / "a", "0.png", 40000, mode="I;16")
    with pytest.raises(UserError, match="more than 8 bits a channel"):
        ImageFolder(str(tmp_path))


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    """A damaged image is named in one line."""
    fill(tmp_path)
    broken = tmp_path / "cat" / "05.png"
    broken.write_bytes(broken.read_bytes()[:45])
    with pytest.raises(UserError, match=rf"^{broken} cannot be read as an image"):
        ImageFolder(str(tmp_path)).split("test").batch(torch.arange(20))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "holds no folders: give one for each class"),
        (["train/cat"], "has a folder train and neither test nor val"),
        (["test"], "test holds no folders"),
        (["cat"], "cannot be read: FileNotFoundError: Found no valid file for the classes cat"),
    ],
)
def test_folders_without_images(tmp_path: Path, folders: list[str], message: str) -> None:
    """Each wrong layout says what is missing."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        ImageFolder(str(tmp_path))


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    """Train and test must have the same class folders, since labels count them."""
    fill(tmp_path / "test")
    fill(tmp_path / "train")
    write(tmp_path / "train" / "bird", "0.png", 1)
    with pytest.raises(UserError, match=r"differ \(bird\)"):
        ImageFolder(str(tmp_path))


def test_no_folder(tmp_path: Path) -> None:
    """A path that is no folder is named."""
    with pytest.raises(UserError, match=f"no folder {tmp_path}/x"):
        ImageFolder(str(tmp_path / "x"))

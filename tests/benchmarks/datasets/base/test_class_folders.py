from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base.class_folders import image_file, numbered, read_labels
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.core.errors import UserError


def test_a_file_of_labels_gives_published_images_their_labels(foolbox_images: dict[str, Path]) -> None:
    """Foolbox's images of four data sets have the labels that their names say."""
    for name, classes in (("imagenet", 1000), ("cifar10", 10), ("cifar100", 100), ("mnist", 10)):
        folder = foolbox_images[name]
        dataset = load_dataset(f"imagefolder:{folder}?classes={classes}&image_size=224")
        assert (dataset.classes, dataset.classes_inferred) == (classes, False)
        _, labels = dataset.split("test").first(20)
        paths = sorted(folder.glob("*.[jp]*"))
        truth = [int(path.stem.rpartition("_")[2]) for path in paths]
        assert labels.tolist() == [truth[index] for index in np.random.RandomState(0).permutation(20)]
    plain = load_dataset(f"imagefolder:{foolbox_images['cifar10']}").split("test").first(20)[0]
    order = np.random.RandomState(0).permutation(20)
    files = sorted(foolbox_images["cifar10"].glob("*.png"))
    assert torch.equal(plain, torch.stack([to_tensor(Image.open(files[index])) for index in order]))


@pytest.mark.parametrize(
    "header",
    ["file,label", "file_name,label", "\ufeffImageId,PredictionString", "path, class ,size", "x,target,filename"],
)
def test_the_usual_columns_are_understood(tmp_path: Path, header: str) -> None:
    """Pandas', Hugging Face's and Kaggle's names, in any order, beside others."""
    path = tmp_path / "labels.csv"
    row = "junk,3,a.png" if header.startswith("x") else "a.png,3,10"
    path.write_text(f"{header}\n{row}\n\n{row.replace('a.png', 'b.png')}\n")
    assert read_labels(path) == [(f"{path}, line 2", "a.png", "3"), (f"{path}, line 4", "b.png", "3")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the first line is '': give the columns file and label"),
        (b"a.png,3\n", "the first line is 'a.png,3': give the columns file and label"),
        (b"file,label\n", "has no rows: give one per image"),
        (b"file,label\na.png\n", "line 2: 1 cells: give a file and its label"),
        (b"file,label\n\xff\xfe,1\n", "cannot be read: 'utf-8' codec"),
        (b"file,label\n" + b"x" * 200_000 + b",1\n", "line 2: field larger than field limit"),
    ],
)
def test_a_wrong_file_of_labels_is_named(tmp_path: Path, content: bytes, line: str) -> None:
    """Each fault is told with its line."""
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/labels.csv[:,]? ?{line}"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "", "a\\b.png", "a\0.png"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A file of labels is data from anywhere."""
    with pytest.raises(UserError, match=r"^labels, line 3: '.*' is no file inside"):
        image_file(tmp_path, name, where="labels, line 3")


def test_labels_become_numbers() -> None:
    """Numbers stay; names are numbered in sorted order, as torchvision numbers class folders."""
    assert numbered(["3", "0"], classes=None, where="x") == ([3, 0], 4, None)
    assert numbered(["3", "0"], classes=10, where="x").classes == 10
    # What pandas writes for integers beside a gap; sorted as text, 10.0 comes before 2.0.
    assert numbered(["10.0", "2.0", "0"], classes=None, where="x") == ([10, 2, 0], 11, None)
    assert numbered(["2.0", "cat"], classes=None, where="x").names == ("2.0", "cat")
    assert numbered(["dog", "cat", "dog"], classes=None, where="x") == ([1, 0, 1], 2, ("cat", "dog"))


@pytest.mark.parametrize(
    ("texts", "classes", "line"),
    [
        (["1", "-1"], None, "x has the label -1: labels are 0 to 1"),
        (["1", "21842"], 1000, "x has the label 21842: labels are 0 to 999"),
        (["0", "0"], None, "the labels of x are all 0: give the number of classes"),
        (["1.0", "0.5"], None, "x has the label 0.5: labels are whole numbers, or class names"),
        (["1.0", "-1.0"], None, "x has the label -1: labels are 0 to 1"),
        (["1.0", ""], None, "x has an example without a label"),
        (["1.0", "nan"], None, "x has an example without a label"),
        (["a", "b"], 3, "x has 2 class names, such as a, and classes is 3"),
        (["a", "a"], None, "x has one class only, a"),
    ],
)
def test_labels_out_of_range(texts: list[str], classes: int | None, line: str) -> None:
    """A label that is no class is told with the range."""
    with pytest.raises(UserError, match=f"^{line}"):
        numbered(texts, classes=classes, where="x")


def test_train_and_test_share_the_numbers_of_names(tmp_path: Path) -> None:
    """A class that only training images have changes no number between the splits."""
    for split, names in (("train", "abc"), ("val", "cb")):
        (tmp_path / split).mkdir()
        for name in names:
            Image.new("RGB", (3, 3)).save(tmp_path / split / f"{name}.png")
        rows = "".join(f"{name}.png,{name}\n" for name in names)
        (tmp_path / split / "labels.csv").write_text(f"file,label\n{rows}")
    dataset = load_dataset(f"imagefolder:{tmp_path}")
    assert (dataset.classes, dataset.class_names) == (3, ("a", "b", "c"))
    assert sorted(dataset.split("test").labels.tolist()) == [1, 2]
    (tmp_path / "train" / "labels.csv").unlink()
    with pytest.raises(UserError, match="give both train and test such a file"):
        load_dataset(f"imagefolder:{tmp_path}?image_size=3")

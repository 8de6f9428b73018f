from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.core.errors import UserError

OWN = """
import torch
from pathlib import Path
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.split import TensorSplit

class Mine(Dataset):
    classes = 2
    shape = (1, 2, 2)

    def load(self, name):
        return TensorSplit(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 1, 0]))

def make(argument, *, data_dir):
    return Mine(data_dir=data_dir)

def bare():
    return Mine()

def number(argument, *, data_dir):
    return 5
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's file with a data set in it."""
    file = tmp_path / "own_data.py"
    file.write_text(OWN)
    return file


def test_our_own_names() -> None:
    """Each file of the folder is a data set under its name."""
    expected = [
        "cifar10",
        "cifar10-c",
        "cifar100",
        "cifar100-c",
        "digits",
        "fashion-mnist",
        "hf",
        "imagefolder",
        "imagenet",
        "imagenet-c",
        "mnist",
        "npz",
        "svhn",
        "webdataset",
    ]
    assert [
        name for name in registry.names() if registry.load(name).__module__.startswith(registry.package)
    ] == expected


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "fashion-mnist", "mnist", "svhn"])
def test_what_a_data_set_says_of_itself(name: str) -> None:
    """Classes, shape, names of the classes and source are known before anything is read."""
    dataset = load_dataset(name)
    assert dataset.name == name
    assert dataset.classes == (100 if name == "cifar100" else 10)
    assert dataset.shape == {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28), "mnist": (1, 28, 28)}.get(
        name, (3, 32, 32)
    )
    assert dataset.paper
    assert dataset.epochs >= 1


@pytest.mark.parametrize("word", ["Mine", "make"])
def test_a_users_own(own: Path, word: str) -> None:
    """A Dataset subclass and a function that returns a Dataset are both loaded from a user's file."""
    dataset = load_dataset(f"{own}:{word}")
    assert isinstance(dataset, Dataset)
    assert dataset.split("test").labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bare", r"a function \(argument, \*, data_dir\) that returns a Dataset"),
        ("number", "is a int: it must be a Dataset"),
        ("Mime", "did you mean 'Mine'"),
    ],
)
def test_what_is_no_data_set_is_refused(own: Path, word: str, message: str) -> None:
    """An object that is no data set is refused in one line."""
    with pytest.raises(UserError, match=message):
        load_dataset(f"{own}:{word}")


def test_unknown_name() -> None:
    """An unknown name gets the nearest known one."""
    with pytest.raises(UserError, match="unknown dataset 'fashon-mnist': did you mean 'fashion-mnist'"):
        load_dataset("fashon-mnist")


def test_argument_where_none_is_taken() -> None:
    """A name of ours that takes nothing after it says so."""
    with pytest.raises(UserError, match="data set digits takes nothing after its name, not ':8': give digits"):
        load_dataset("digits:8")


@pytest.mark.parametrize("name", ["npz", "npz:", "imagefolder"])
def test_missing_argument(name: str) -> None:
    """A data set that has to be told what to read says what to write."""
    with pytest.raises(UserError, match=r"give (npz|imagefolder):PATH"):
        load_dataset(name)


def test_loaded_once(tmp_path: Path) -> None:
    """The same words give the same object, other folders another."""
    assert load_dataset("digits") is load_dataset("digits", data_dir=None)
    assert load_dataset("mnist", data_dir=tmp_path) is not load_dataset("mnist", data_dir=tmp_path / "other")
    assert torch.equal(load_dataset("digits").split("train").labels, load_dataset("digits").split("train").labels)


@pytest.mark.parametrize("options", ["", "?image_size=4"])
def test_a_changed_file_is_read_again(tmp_path: Path, options: str) -> None:
    """A notebook that saves its images again gets the new ones, with as many bytes in the file as before."""
    path = tmp_path / "mine.npz"
    for labels in ([0, 1], [1, 0]):
        np.savez(path, images=np.zeros((2, 8, 8), dtype=np.uint8), labels=labels)
        data = load_dataset(f"npz:{path}{options}")
        assert data.split("test").labels.tolist() == labels
    assert load_dataset(f"npz:{path}{options}") is data
    path.unlink()
    with pytest.raises(UserError, match=f"no file {path}"):
        load_dataset(f"npz:{path}{options}")


def test_from_python_a_folder_is_words_or_a_path(tmp_path: Path) -> None:
    """A folder in words is the same folder, and what is neither is one line."""
    assert load_dataset("digits", data_dir=str(tmp_path)) is load_dataset("digits", data_dir=tmp_path)
    digits = load_dataset("digits")
    for name, keywords, line in (
        (digits, {}, "the data set is a Digits: it is loaded already"),
        (None, {}, "the data set is a NoneType: give its name"),
        ("digits", {"data_dir": 3}, "data_dir is a int: give the path of a folder"),
        ("digits", {"root": tmp_path}, "load_dataset has no parameter 'root': known: channels, crop, data_dir, "),
    ):
        with pytest.raises(UserError, match=f"^{line}"):
            load_dataset(name, **keywords)  # type: ignore[arg-type]

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.hf import HuggingFace
from robustbench_cli.core.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of the library, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def pictures(count: int = 6) -> list[Image.Image]:
    random = np.random.RandomState(0)
    return [Image.fromarray(random.randint(0, 256, (6, 5, 3)).astype(np.uint8)) for _ in range(count)]


def parquet(folder: Path, columns: dict[str, Any], features: dict[str, Any], split: str = "test") -> str:
    """A data set as the library writes it."""
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


NAMES = datasets.ClassLabel(names=["cat", "dog", "owl"])


def test_images_and_labels_are_those_of_the_library(tmp_path: Path) -> None:
    """Each image as the library decodes it, with its label and the names of the classes."""
    columns = {"id": list("abcdef"), "picture": pictures(), "animal": [0, 1, 2, 0, 1, 2]}
    features = {"id": datasets.Value("string"), "picture": datasets.Image(), "animal": NAMES}
    for split in ("train", "test"):
        path = parquet(tmp_path / "set", columns, features, split)
    dataset = load_dataset(f"hf:{path}")
    assert (dataset.classes, dataset.class_names, dataset.shape) == (3, ("cat", "dog", "owl"), (3, 6, 5))
    reference = datasets.load_dataset(path, split="test")
    order = np.random.RandomState(0).permutation(6).tolist()
    for split in ("train", "test"):
        images, labels = dataset.split(split).first(6)  # type: ignore[arg-type]
        assert labels.tolist() == [reference[index]["animal"] for index in order]
        assert torch.equal(images, torch.stack([to_tensor(reference[index]["picture"]) for index in order]))


def test_labels_without_a_type(tmp_path: Path) -> None:
    """A column called label may hold numbers or names; the split may have another name."""
    image = datasets.Image()
    numbers = parquet(
        tmp_path / "numbers",
        {"image": pictures(3), "label": [0, 4, 2]},
        {"image": image, "label": datasets.Value("int64")},
    )
    dataset = load_dataset(f"hf:{numbers}")
    assert (dataset.classes, dataset.classes_inferred) == (5, True)
    names = {"image": pictures(3), "label": ["b", "a", "b"]}
    path = parquet(tmp_path / "names", names, {"image": image, "label": datasets.Value("string")}, split="validation")
    dataset = load_dataset(f"hf:{path}")
    assert (dataset.class_names, sorted(dataset.split("test").labels.tolist())) == (("a", "b"), [0, 1, 1])
    with pytest.raises(UserError, match=r"cannot be loaded .*: give .split=NAME after the name"):
        dataset.split("train")


@pytest.mark.parametrize(
    ("kind", "test", "train", "unknown"),
    [
        ("string", ["0", "1", "0"], ["1", "1", "0"], "2"),
        ("int64", [0, 1, 0], [1, 1, 0], 2),
        ("string", ["cat", "dog", "cat"], ["dog", "dog", "cat"], "owl"),
    ],
)
def test_both_splits_number_the_classes_alike(
    tmp_path: Path, kind: str, test: list[Any], train: list[Any], unknown: Any
) -> None:
    """Numbers may be text; a class of the train split that no test image has is named."""
    features = {"image": datasets.Image(), "label": datasets.Value(kind)}
    for name, values in (("known", train), ("unknown", [*train[:2], unknown])):
        for split, column in (("test", test), ("train", values)):
            path = parquet(tmp_path / name, {"image": pictures(3), "label": column}, features, split)
    order = np.random.RandomState(0).permutation(3)
    dataset = load_dataset(f"hf:{tmp_path}/known")
    assert (dataset.classes, dataset.class_names) == (2, ("cat", "dog") if unknown == "owl" else None)
    assert dataset.split("test").labels.tolist() == [[0, 1, 0][index] for index in order]
    assert dataset.split("train").labels.tolist() == [[1, 1, 0][index] for index in order]
    with pytest.raises(UserError, match=f"the column label has the unknown class '{unknown}'"):
        load_dataset(f"hf:{path}").split("train")


def test_columns_can_be_named(tmp_path: Path) -> None:
    """With two columns of labels the user chooses; a wrong name gets a suggestion."""
    columns = {"image": pictures(3), "mask": pictures(3), "fine": [0, 1, 2], "coarse": [2, 1, 0]}
    path = parquet(
        tmp_path / "x", columns, {"image": datasets.Image(), "mask": datasets.Image(), "fine": NAMES, "coarse": NAMES}
    )
    with pytest.raises(UserError, match=r"has several columns of images: give one of image, mask as .image=COLUMN"):
        HuggingFace(path)
    with pytest.raises(UserError, match=r"has several columns of labels: give one of fine, coarse as .label=COLUMN"):
        HuggingFace(path, image="image")
    with pytest.raises(UserError, match=r"has no column 'coarsse': did you mean 'coarse'"):
        HuggingFace(path, image="image", label="coarsse")
    with pytest.raises(UserError, match=r"the column fine has no images"):
        HuggingFace(path, image="fine", label="coarse")
    order = np.random.RandomState(0).permutation(3)
    labels = load_dataset(f"hf:{path}?image=image&label=coarse").split("test").labels
    assert labels.tolist() == [2 - index for index in order]


def test_a_table_cannot_name_other_files(tmp_path: Path) -> None:
    """A table may hold paths instead of images; they must be inside the data set or the library's cache."""
    secret = tmp_path / "secret.png"
    pictures(1)[0].save(secret)
    rows = [{"bytes": None, "path": str(secret)}, {"bytes": None, "path": str(secret)}]
    path = parquet(
        tmp_path / "x", {"image": rows, "label": [0, 1]}, {"image": datasets.Image(decode=False), "label": NAMES}
    )
    with pytest.raises(
        UserError, match=r"image . of the column image cannot be read .*secret\.png is outside of the data set"
    ):
        HuggingFace(path)
    inside = tmp_path / "folder"
    for name in ("cat", "dog"):
        (inside / "test" / name).mkdir(parents=True)
        pictures(1)[0].save(inside / "test" / name / "0.png")
    assert load_dataset(f"hf:{inside}").class_names == ("cat", "dog")


def test_unlabeled_test_images(tmp_path: Path) -> None:
    """Many test splits of the Hub have the label -1 throughout."""
    path = parquet(
        tmp_path / "x", {"image": pictures(2), "label": [-1, -1]}, {"image": datasets.Image(), "label": NAMES}
    )
    with pytest.raises(UserError, match=r"has images without a label .-1.: give another .split=NAME"):
        HuggingFace(path)


def test_what_cannot_be_loaded_has_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, with code in the repository, and without the library."""
    with pytest.raises(
        UserError, match=r"hf:nobody/nothing cannot be loaded .*: connect to the network, or give a folder"
    ):
        HuggingFace("nobody/nothing")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match=r"cannot be loaded") as refusal:
        HuggingFace(str(tmp_path / "x"))
    assert "\n" not in str(refusal.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"data set hf needs datasets: install it with pip install 'advdef\[datasets\]'"
    ):
        HuggingFace("owner/name")


def test_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line at once: nothing waits to try again, and the settings of the libraries stay."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", None)
    with pytest.raises(
        UserError, match=r"^hf:owner/data cannot be loaded \(.*\): connect to the network, or give a folder"
    ):
        HuggingFace("owner/data")
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE

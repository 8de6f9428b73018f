from __future__ import annotations

import gc
import io
import json
import pickle
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import pytest
import torch
import webdataset
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.webdataset import WebDataset, _shards
from robustbench_cli.core.errors import UserError


def write(path: Path, *examples: dict[str, Any]) -> Path:
    """An archive as the library webdataset writes it."""
    with webdataset.TarWriter(str(path)) as archive:
        for number, example in enumerate(examples):
            archive.write({"__key__": f"{path.stem}/{number:04}", **example})
    return path


def picture(level: int) -> np.ndarray:
    return np.full((4, 5, 3), level, dtype=np.uint8)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_archives_of_the_library_are_read(tmp_path: Path) -> None:
    """Images and labels equal those that the library reads; the order is that of all data sets of files."""
    for shard in range(3):
        examples = [{"png": picture(10 * shard + i), "cls": (shard + i) % 4} for i in range(5)]
        write(tmp_path / f"val-{shard:02}.tar", *examples)
    pattern = f"{tmp_path}/val-{{00..02}}.tar"
    reference = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
    # The library leaves its files to the garbage collector.
    gc.collect()
    dataset = load_dataset(f"webdataset:{pattern}")
    assert (dataset.classes, dataset.classes_inferred, dataset.shape) == (4, True, (3, 4, 5))
    images, labels = dataset.split("test").first(15)
    order = np.random.RandomState(0).permutation(15)
    assert labels.tolist() == [reference[index][1] for index in order]
    assert torch.equal(images, torch.stack([to_tensor(reference[index][0]) for index in order]))


def test_labels_in_every_form_and_pickles_in_none(tmp_path: Path) -> None:
    """Numbers and names in .cls, .txt and .json; what could run code, and what is no input, is left alone."""
    evil = pickle.dumps(print)
    path = write(
        tmp_path / "a.tar", {"jpg": picture(3), "json": {"label": 7, "size": 3}, "pyd": evil, "seg.png": picture(9)}
    )
    dataset = load_dataset(f"webdataset:{path}?classes=10")
    assert (dataset.split("test").labels.tolist(), dataset.classes_inferred) == ([7], False)
    named = write(tmp_path / "b.tar", {"png": picture(1), "txt": "dog"}, {"png": picture(2), "txt": "cat"})
    assert load_dataset(f"webdataset:{named}").class_names == ("cat", "dog")
    both = load_dataset(f"webdataset:{named}?train={named}")
    assert len(both.split("train")) == 2
    with pytest.raises(UserError, match=r"is the test split: name the archives to train on with \?train=PATTERN"):
        load_dataset(f"webdataset:{named}").split("train")


@pytest.mark.parametrize(
    "pattern",
    ["a.tar", "{0..2}.tar", "{000..012}.tar", "{8..11}.tar", "x-{a,b}-{01..03}.tar", "{09..10}.tar", "{0..0}.tar"],
)
def test_braces_are_those_of_the_library(tmp_path: Path, pattern: str) -> None:
    """Ranges with and without leading zeros, lists, and several of them, in the library's order."""
    expected = list(braceexpand.braceexpand(f"{tmp_path}/{pattern}"))
    for path in expected:
        Path(path).touch()
    assert [str(path) for path in _shards(f"{tmp_path}/{pattern}")] == expected


@pytest.mark.parametrize(
    ("example", "line"),
    [
        ({"png": picture(1)}, "a.tar: a/0000 has an image and no label: give it a .cls, .json or .txt"),
        ({"png": picture(1), "json": {"id": 3}}, "a/0000.json in .*a.tar has no label"),
        ({"png": picture(1), "json": [3]}, "a/0000.json in .*a.tar has no label"),
        ({"png": picture(1), "cls": b""}, "a/0000.cls in .*a.tar has no label"),
        ({"png": picture(1), "cls": b"\xff"}, "a/0000.cls in .*a.tar cannot be read as a label"),
        ({"png": picture(1), "json": b"[" * 100_000}, "a/0000.json in .*a.tar cannot be read as a label"),
        ({"png": picture(1), "txt": "3" * 2**21}, "a/0000.txt in .*a.tar has 2,097,152 bytes: a label may have"),
        ({"png": b"no image", "cls": 3}, "a/0000.png in .*a.tar cannot be read as an image: save it"),
        ({"png": picture(1), "cls": 21842}, "has the label 21842: labels are 0 to 999"),
    ],
)
def test_a_wrong_example_is_named(tmp_path: Path, example: dict[str, Any], line: str) -> None:
    """With its archive, in one line."""
    path = write(tmp_path / "a.tar", example)
    with pytest.raises(UserError, match=line) as refusal:
        WebDataset(str(path), classes="1000")
    assert "\n" not in str(refusal.value)


def test_wildcards_are_those_of_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bash's order, without hidden files, each archive once; the library's "::" joins patterns."""
    monkeypatch.chdir(tmp_path)
    for name in ("b-10.tar", "b-2.tar", "a-1.tar", ".b-3.tar", "b-[2].tar", "b-4.txt"):
        Path(name).touch()
    Path("b-9.tar").mkdir()
    for pattern in ("*.tar", "b-?.tar", "b-[12]*.tar", "{b,a}-*.tar", "{b-1,a}*.tar", f"{tmp_path}/b-*.tar"):
        listing = ["bash", "-c", f"LC_ALL=C; printf '%s\\n' {pattern}"]
        lines = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [str(path) for path in _shards(pattern)] == [line for line in lines if Path(line).is_file()]
    assert [str(path) for path in _shards("b-10.tar::a-*.tar::b-1*.tar")] == ["b-10.tar", "a-1.tar"]
    assert [str(path) for path in _shards("b-[2].tar")] == ["b-[2].tar"]


@pytest.mark.parametrize("kind", ["link", "links", "ending"])
def test_an_example_without_an_image_is_told(tmp_path: Path, kind: str) -> None:
    """An image that is a link or has an unknown ending does not vanish: it is an error, or counted among those left out."""
    write(tmp_path / "a.tar", {"png": picture(1), "cls": 0}, {"png": picture(2), "cls": 1})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        image = tarfile.TarInfo("a/0002.gif" if kind == "ending" else "a/0002.png")
        label = tarfile.TarInfo("a/0002.cls")
        label.size = 3
        for member in {"ending": (), "link": (image,), "links": (image, label)}[kind]:
            member.type, member.linkname, member.size = tarfile.LNKTYPE, f"a/0000{member.name[-4:]}", 0
        archive.addfile(image)
        archive.addfile(label, io.BytesIO(b"dog"[: label.size]))
    fault = {
        "ending": r"cls in .*a\.tar is a label without an image: give the image as \.jpg, ",
        "link": r"png in .*a\.tar is a link or sparse: store the image itself",
    }[kind.removesuffix("s")]
    with pytest.raises(UserError, match=rf"^a/0002\.{fault}.*, or leave it out with --on-bad-image skip$"):
        WebDataset(f"{tmp_path}/a.tar")
    split = WebDataset(f"{tmp_path}/a.tar", on_bad_image="skip").split("test")
    assert sorted(split.first(3)[1].tolist()) == [0, 1]
    name = "the image of a/0002.cls" if kind == "ending" else "a/0002.png"
    assert f"one image left out, the first one: {name} in" in str(split.left_out)


def test_wrong_patterns_and_archives(tmp_path: Path) -> None:
    """A missing archive, a range that is none, and an archive without images."""
    empty = write(tmp_path / "a.tar", {"json": json.loads("{}")})
    for pattern, line in (
        ("x-{000..003}.tar", r"no file x-000\.tar: give webdataset:PATTERN"),
        ("pipe:cat x.tar", "no file pipe:cat x.tar: give webdataset:PATTERN"),
        ("x-*.tar", r"no file matches x-\*\.tar: give webdataset:PATTERN"),
        (f"{empty}::x-?.tar", r"no file matches x-\?\.tar: give webdataset:PATTERN"),
        ("{5..2}.tar", r"the range \{5\.\.2\} is empty or too long"),
        ("{0..999}{0..999}.tar", "names more than 100,000 archives"),
        (str(empty), "has no images"),
    ):
        with pytest.raises(UserError, match=line):
            WebDataset(pattern)

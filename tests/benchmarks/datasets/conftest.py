"""Small data sets in the true formats, and a network that answers only with them."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import numpy as np
import pytest
import torchvision


class Answer(io.BytesIO):
    """What ``urlopen`` returns."""

    def __init__(self, content: bytes, url: str) -> None:
        super().__init__(content)
        self.length = len(content)
        self.url = url


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files that can be downloaded, by name; empty: no network."""
    files: dict[str, bytes] = {}

    def urlopen(request: Request) -> Answer:
        name = request.full_url.rpartition("/")[2]
        if name not in files:
            raise URLError(f"no answer for {name}")
        return Answer(files[name], request.full_url)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return files


def idx(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file, by the format's own description."""
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def gray() -> dict[str, np.ndarray]:
    """Seven train and five test images of 28 x 28 with their labels."""
    random = np.random.RandomState(1)
    return {
        "train-images-idx3-ubyte": random.randint(0, 256, (7, 28, 28)).astype(np.uint8),
        "train-labels-idx1-ubyte": np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8),
        "t10k-images-idx3-ubyte": random.randint(0, 256, (5, 28, 28)).astype(np.uint8),
        "t10k-labels-idx1-ubyte": np.array([6, 5, 3, 5, 8], dtype=np.uint8),
    }


@pytest.fixture
def idx_files(gray: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The same as compressed IDX files, by name."""
    return {f"{name}.gz": gzip.compress(idx(array)) for name, array in gray.items()}


@pytest.fixture
def known_idx(monkeypatch: pytest.MonkeyPatch, idx_files: dict[str, bytes]) -> Callable[[type], None]:
    """Tells one of torchvision's classes the MD5 sums of these files in place of the true ones."""

    def tell(kind: type[torchvision.datasets.MNIST]) -> None:
        resources = [(name, hashlib.md5(idx_files[name]).hexdigest()) for name, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", resources)

    return tell


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture
def foolbox_images(tmp_path: Path) -> dict[str, Path]:
    """Foolbox's 20 images of each of imagenet, cifar10, cifar100 and mnist, in a folder with a file of labels."""
    folders = {}
    for name in ("imagenet", "cifar10", "cifar100", "mnist"):
        folder = tmp_path / f"foolbox-{name}"
        folder.mkdir()
        rows = []
        for path in sorted(package("foolbox").glob(f"data/{name}_*")):
            shutil.copy(path, folder)
            rows.append(f"{path.name},{path.stem.rpartition('_')[2]}\n")
        (folder / "labels.csv").write_text(f"file,label\n{''.join(rows)}")
        folders[name] = folder
    return folders

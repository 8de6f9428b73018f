from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from robustbench_cli.benchmarks.datasets.svhn import Svhn
from robustbench_cli.core.errors import UserError


@pytest.fixture
def pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Four images in a MATLAB file as SVHN has it: (32, 32, 3, N), labels 1 to 10."""
    values = np.random.RandomState(2).randint(0, 256, (32, 32, 3, 4)).astype(np.uint8)
    file = tmp_path / "test_32x32.mat"
    scipy.io.savemat(file, {"X": values, "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
    url, name, _ = torchvision.datasets.SVHN.split_list["test"]
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(torchvision.datasets.SVHN.split_list, "test", [url, name, md5])
    return values


def test_matlab_files_are_read(tmp_path: Path, pixels: np.ndarray, network: dict[str, bytes]) -> None:
    """Pixel (row, column, channel, n) of the file is pixel (n, channel, row, column), and label 10 is the digit 0."""
    images, labels = Svhn(data_dir=tmp_path).split("test").batch(torch.arange(4))
    assert np.array_equal((images * 255).round().numpy(), pixels.transpose(3, 2, 0, 1))
    assert labels.tolist() == [0, 1, 9, 0]


def test_an_altered_file_is_refused(tmp_path: Path, pixels: np.ndarray, network: dict[str, bytes]) -> None:
    """A file with another MD5 sum, and no network to fetch it again: one line, and the file is left as it was."""
    file = tmp_path / "test_32x32.mat"
    altered = file.read_bytes()[:-1] + b"!"
    file.write_bytes(altered)
    with pytest.raises(UserError, match=r"svhn is missing or damaged in .* its download failed"):
        Svhn(data_dir=tmp_path).split("test")
    assert file.read_bytes() == altered

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.datasets.mnist import Mnist
from robustbench_cli.core.errors import UserError


@pytest.fixture(autouse=True)
def _known(known_idx: Callable[[type], None]) -> None:
    known_idx(torchvision.datasets.MNIST)


def test_absent_files_are_downloaded_once(
    tmp_path: Path, network: dict[str, bytes], idx_files: dict[str, bytes], gray: dict[str, np.ndarray]
) -> None:
    """Absent files are fetched, found again without a network, and leave nothing unfinished behind."""
    network.update(idx_files)
    first = Mnist(data_dir=tmp_path / "new").split("test").labels
    network.clear()
    again = Mnist(data_dir=tmp_path / "new").split("test").labels
    assert first.tolist() == again.tolist() == gray["t10k-labels-idx1-ubyte"].tolist()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]


def test_cut_off_files_are_downloaded_again(
    tmp_path: Path, network: dict[str, bytes], idx_files: dict[str, bytes], gray: dict[str, np.ndarray]
) -> None:
    """A file that an interrupted run left half written is replaced."""
    network.update(idx_files)
    Mnist(data_dir=tmp_path).split("test")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    images, _ = Mnist(data_dir=tmp_path).split("test").batch(torch.arange(5))
    assert np.array_equal((images.squeeze(1) * 255).round().numpy(), gray["t10k-images-idx3-ubyte"])
    assert file.read_bytes() == whole


@pytest.mark.parametrize("altered", [False, True])
def test_a_download_that_fails_is_one_line(
    tmp_path: Path, network: dict[str, bytes], idx_files: dict[str, bytes], altered: bool
) -> None:
    """No network, or files with another MD5 sum: where it was looked for and how to get it, and no file left behind."""
    if altered:
        network.update({name: content + b"0" for name, content in idx_files.items()})
    with pytest.raises(UserError) as caught:
        Mnist(data_dir=tmp_path).split("train")
    message = str(caught.value)
    assert message.startswith(f"mnist is missing or damaged in {tmp_path}/MNIST/raw, and its download failed")
    assert "give --data-dir DIR where DIR/MNIST/raw is torchvision's copy" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, network: dict[str, bytes]) -> None:
    """A data folder that cannot be made gets the same line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="its download failed"):
        Mnist(data_dir=tmp_path / "file" / "data").split("train")


def test_a_download_has_a_time_limit(
    tmp_path: Path, network: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never answers does not hold a run up; the limit ends with the download."""
    limits = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: limits.append(socket.getdefaulttimeout()))
    with pytest.raises(UserError):
        Mnist(data_dir=tmp_path).split("train")
    assert limits == [30]
    assert socket.getdefaulttimeout() is None

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from robustbench_cli.benchmarks.checkpoints import defended_model
from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    load_defended_model,
    open_defended_model,
)
from robustbench_cli.benchmarks.weights import opened_file
from robustbench_cli.benchmarks.weights.opened_file import open_file
from robustbench_cli.cli.main import main
from robustbench_cli.core.errors import UserError


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files of weights that are read, by name; the process starts with an empty cache."""
    names: list[str] = []
    read_bytes = opened_file.read_bytes

    def counted(path: Path) -> bytes:
        names.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(opened_file, "read_bytes", counted)
    monkeypatch.setattr(opened_file, "_opened", type(opened_file._opened)())
    monkeypatch.setattr(defended_model, "_opened", type(defended_model._opened)())
    return names


def old(path: Path, *, seconds: float = 10.0) -> Path:
    """The same file, written some seconds ago."""
    times = path.stat().st_mtime - seconds
    os.utime(path, (times, times))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, defended: DefendedModel) -> Path:
    """A checkpoint that was written some seconds ago."""
    return old(Path(shutil.copy(defended.path, tmp_path / "model.safetensors")))


def test_a_command_reads_a_checkpoint_once(
    checkpoint: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two attacks on a checkpoint open, hash and measure it once."""
    measured: list[Path] = []
    measure = defended_model.measured_defended_model

    def counted(model: object, info: object, path: Path, *rest: object) -> DefendedModel:
        measured.append(path)
        return measure(model, info, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(defended_model, "measured_defended_model", counted)
    hashed = []
    identity = defended_model._identity
    monkeypatch.setattr(defended_model, "_identity", lambda *given: hashed.append(1) or identity(*given))
    monkeypatch.chdir(checkpoint.parent)
    words = ["--checkpoint", "model.safetensors", "--attack", "fgsm", "--attack", "pgd", "--eps", "0.1", "--n", "5"]
    assert main(["attack", *words]) == 0
    assert "worst-case" in capsys.readouterr().out
    assert reads == ["model.safetensors"]
    assert len(measured) == len(hashed) == 1


def test_a_changed_file_is_read_again(checkpoint: Path, reads: list[str], tmp_path: Path) -> None:
    """Whether it was replaced or written in place; and its models are other models."""
    first = open_defended_model(checkpoint)
    assert open_defended_model(checkpoint) == first
    assert len(reads) == 1
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    old(checkpoint, seconds=5)
    second = open_defended_model(checkpoint)
    assert second.identity != first.identity
    assert len(reads) == 2
    with pytest.raises(UserError, match="has changed since the command began"):
        load_defended_model(checkpoint, first.loading, first.identity)
    replacement = old(Path(shutil.copy(checkpoint, tmp_path / "other")), seconds=5)
    os.utime(replacement, ns=(checkpoint.stat().st_atime_ns, checkpoint.stat().st_mtime_ns))
    replacement.replace(checkpoint)
    assert open_defended_model(checkpoint).identity == second.identity
    assert len(reads) == 3


def test_a_file_that_was_just_written_is_not_cached(checkpoint: Path, reads: list[str]) -> None:
    """A second write could come within the resolution of the file system's times."""
    os.utime(checkpoint)
    open_file(checkpoint)
    open_file(checkpoint)
    assert len(reads) == 2


def test_every_load_is_a_new_module(checkpoint: Path, reads: list[str]) -> None:
    """What one evaluation does to its model, to the weights too, reaches no other."""
    defended = open_defended_model(checkpoint)
    first, second = defended.load(), defended.load()
    assert first is not second
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in second.parameters())
    assert all(parameter.any() for parameter in load_checkpoint(checkpoint).model.parameters())
    assert len(reads) == 1


def test_at_most_two_files_stay_in_memory(tmp_path: Path, reads: list[str]) -> None:
    """The one that was used last stays."""
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path in paths:
        save_file({"weight": torch.ones(2)}, path)
        old(path)
    for path in (*paths[:2], paths[0], paths[2], paths[0]):
        assert open_file(path).tensors(path)["weight"].tolist() == [1, 1]
    assert reads == ["a.safetensors", "b.safetensors", "c.safetensors"]
    open_file(paths[1])
    assert reads[3:] == ["b.safetensors"]


def test_a_path_and_a_link_to_it_are_one_file(checkpoint: Path, reads: list[str]) -> None:
    """The description has the path as it was given."""
    link = checkpoint.with_name("link.safetensors")
    link.symlink_to(checkpoint)
    assert open_defended_model(checkpoint).identity == open_defended_model(link).identity
    assert open_defended_model(link).path == link
    assert len(reads) == 1


def test_a_file_replaced_in_place_is_noticed(checkpoint: Path, reads: list[str], tmp_path: Path) -> None:
    """Also one of the same size and modification time, as ``rsync --inplace --times`` leaves it."""
    defended = open_defended_model(checkpoint)
    tensors = {key: -tensor for key, tensor in load_file(checkpoint).items()}
    with safe_open(checkpoint, framework="pt") as file:
        save_file(tensors, tmp_path / "other.safetensors", metadata=file.metadata())
    times = checkpoint.stat().st_atime_ns, checkpoint.stat().st_mtime_ns
    assert (tmp_path / "other.safetensors").stat().st_size == checkpoint.stat().st_size
    checkpoint.write_bytes((tmp_path / "other.safetensors").read_bytes())
    os.utime(checkpoint, ns=times)
    assert open_defended_model(checkpoint).identity != defended.identity
    with pytest.raises(UserError, match="has changed since the command began"):
        defended.load()

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.weights.folder import read_json, weight_files
from robustbench_cli.core.errors import UserError

INDEX = "model.safetensors.index.json"


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def index(folder: Path, content: object, name: str = INDEX) -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_safest_weights_are_taken(tmp_path: Path) -> None:
    """Safetensors before pickles, one file before shards, and a single safetensors file under any name."""
    assert weight_files(write(tmp_path, "best.safetensors")) == [tmp_path / "best.safetensors"]
    assert weight_files(write(tmp_path, "pytorch_model.bin")) == [tmp_path / "pytorch_model.bin"]
    index(tmp_path, {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
    write(tmp_path, "1.safetensors", "2.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    assert weight_files(write(tmp_path, "model.safetensors")) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/a.bin", "sub/a.bin", "..\\a.bin", "code.py", "", "a.safetensors\0"]
)
def test_a_shard_is_a_file_beside_its_index(tmp_path: Path, name: str) -> None:
    """A name in the index is data: it opens no file elsewhere."""
    index(tmp_path, {"weight_map": {"a": name}})
    with pytest.raises(UserError, match=r"a shard is a \.safetensors or \.bin file beside its index"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "content", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ["b"]}}]
)
def test_a_damaged_index(tmp_path: Path, content: object) -> None:
    """It is named."""
    with pytest.raises(UserError, match=rf"{INDEX} (has no weight_map|holds a list)"):
        weight_files(index(tmp_path, content))


def test_folders_without_one_set_of_weights(tmp_path: Path) -> None:
    """None, several, or a shard that is missing."""
    with pytest.raises(UserError, match="is a folder without weights"):
        weight_files(tmp_path)
    with pytest.raises(UserError, match=r"several files of weights \(a\.safetensors, b\.safetensors\) and no index"):
        weight_files(write(tmp_path, "a.safetensors", "b.safetensors"))
    with pytest.raises(UserError, match=r"lacks c\.safetensors, which its .*index\.json names"):
        weight_files(index(tmp_path, {"weight_map": {"a": "c.safetensors", "b": "a.safetensors"}}))
    (tmp_path / INDEX).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=f"{INDEX} cannot be read as JSON"):
        weight_files(tmp_path)


def test_a_pipe_is_no_json(tmp_path: Path) -> None:
    """It is refused without waiting for its writer."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON .OSError: it is a pipe, not a file"):
        read_json(tmp_path / "config.json")

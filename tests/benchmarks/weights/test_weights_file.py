from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.weights.weights_file import (
    read_bytes,
    read_metadata,
    read_tensors,
)
from robustbench_cli.core.errors import UserError

from .conftest import network, same


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file."""
    return read_tensors(read_bytes(path), path)


def refused(path: Path, message: str) -> None:
    """Reading the file ends in one line that begins with the file's name and has the message in it."""
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize(
    "wrappers", [[], ["state_dict"], ["model"], ["net"], ["model_state_dict"], ["net", "state_dict"]]
)
def test_state_dicts_of_torch_save(tmp_path: Path, zipped: bool, suffix: str, wrappers: list[str]) -> None:
    """Both formats of torch.save are read, with any usual wrapper and what else training scripts keep beside it."""
    content: Any = network().state_dict()
    for word in wrappers:
        content = {"epoch": 7, "optimizer": {"param_groups": [1]}, word: content, "note": "best"}
    path = tmp_path / f"a{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read(path), network().state_dict())


def test_safetensors_are_read_by_their_content(tmp_path: Path) -> None:
    """A safetensors file is read as such under any name, and its metadata with it."""
    path = tmp_path / "a.bin"
    safetensors.torch.save_file(network().state_dict(), path, metadata={"format": "pt"})
    assert same(read(path), network().state_dict())
    assert read_metadata(path.read_bytes()) == {"format": "pt"}


def test_only_safetensors_have_metadata(tmp_path: Path) -> None:
    """A file of torch.save has none."""
    torch.save(network().state_dict(), tmp_path / "a.pt")
    assert read_metadata((tmp_path / "a.pt").read_bytes()) is None


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle 2", "pickle 4", "pickle 5", "safetensors name"])
def test_code_in_a_pickle_is_named_and_does_not_run(tmp_path: Path, how: str) -> None:
    """A pickle that would run a command is refused with the command's name and the way out, and nothing runs."""
    mark, path = tmp_path / "mark", tmp_path / ("a.safetensors" if how == "safetensors name" else "a.pt")
    content = {"state_dict": network().state_dict() if "pickle" not in how else {}, "extra": Touch(mark)}
    if "pickle" in how:
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    refused(path, r"could run code \(posix\.system\): where you trust it, .* save only model\.state_dict\(\)")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Touch(mark)))
    assert mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_modules_and_numpy_scalars_are_named(tmp_path: Path, zipped: bool) -> None:
    """A pickled module, and the NumPy scalar that many scripts keep beside the weights, are both refused by name."""
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "module.pt", r"torch\.nn\.modules\.linear\.Linear")
    torch.save(
        {"model": network().state_dict(), "best": np.float64(0.5)},
        tmp_path / "b.pt",
        _use_new_zipfile_serialization=zipped,
    )
    refused(tmp_path / "b.pt", r"numpy\.\w+\.multiarray\.scalar")


def test_torchscript_and_exported_programs_are_refused(tmp_path: Path) -> None:
    """Both are code; each is told from a state dict by what the archive holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "b.pt2")
    refused(tmp_path / "a.pt", "is a TorchScript archive, which is code and is not loaded")
    refused(tmp_path / "b.pt2", r"is an exported program \(.pt2\), which is code and is not loaded")


def test_an_older_exported_program_is_refused(tmp_path: Path) -> None:
    """Before PyTorch 2.8 an exported program was an archive with a file of that name."""
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    refused(tmp_path / "a.pt2", "is an exported program")


def saved(kind: str) -> bytes:
    """The small network's state dict as a file of one kind."""
    buffer = io.BytesIO()
    if kind == "safetensors":
        return safetensors.torch.save(network().state_dict())
    torch.save(network().state_dict(), buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_cut_off_files_are_named(tmp_path: Path, kind: str, part: float) -> None:
    """A file that ends early, wherever, is one line."""
    whole = saved(kind)
    (tmp_path / "a.pt").write_bytes(whole[: max(9, int(part * len(whole)))])
    refused(tmp_path / "a.pt", "cut off|save or download it again|neither a safetensors nor a PyTorch file")


def test_a_legacy_file_may_end_anywhere(tmp_path: Path) -> None:
    """Even where it ends within a name, that name is not taken for code."""
    whole = saved("legacy")
    for size in range(9, len(whole)):
        (tmp_path / "a.pt").write_bytes(whole[:size])
        refused(tmp_path / "a.pt", "cut off|save or download it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "is a web page, not a checkpoint"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        (b"// <!doctype HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "pointer of git-lfs"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is neither a safetensors nor a PyTorch file"),
        (b"abc", "is neither a safetensors nor a PyTorch file"),
        (pickle.dumps({"a": 1}, protocol=2), "cut off or damaged"),
        (pickle.dumps({"a": 1}, protocol=4), "cannot be read as a PyTorch file"),
        ((16).to_bytes(8, "little") + b"{" + bytes(15), "cut off or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Each kind of wrong file is told apart."""
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", message)


def test_an_archive_of_another_kind_is_named(tmp_path: Path) -> None:
    """A zip that PyTorch did not write is told apart."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    refused(tmp_path / "a.pt", "is an archive without PyTorch's data.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "history": [torch.zeros(1)]}, r"holds no state dict \(epoch, history\)"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}}, r"holds no state dict \(optimizer\)"),
        ({}, r"holds no state dict \(nothing\)"),
        (torch.zeros(3), r"holds no state dict \(Tensor\)"),
        ([torch.zeros(3)], r"holds no state dict \(list\)"),
    ],
)
def test_content_without_one_state_dict_is_named(tmp_path: Path, content: Any, message: str) -> None:
    """What is found in place of a state dict is said; nothing is guessed."""
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", message)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["a.pt", "a.safetensors"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, kind: str) -> None:
    """One NaN or infinity among the weights is named with its tensor."""
    tensors = network().state_dict()
    tensors["fc.bias"][1] = value
    (torch.save if kind == "a.pt" else safetensors.torch.save_file)(tensors, tmp_path / kind)
    refused(tmp_path / kind, "holds NaN or infinity in fc.bias")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A missing file gets the name of the nearest one beside it; a folder and a pipe, which would block, are no files."""
    (tmp_path / "resnet18.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint .*/resnet8.pth: did you mean 'resnet18.pth'"):
        read_bytes(tmp_path / "resnet8.pth")
    with pytest.raises(UserError, match=r"no checkpoint .*/x/y.pth: its folder has no file of weights"):
        read_bytes(tmp_path / "x" / "y.pth")
    refused(tmp_path, r"cannot be read \(it is a folder, not a file\): give a file of weights")
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "it is a pipe, not a file")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_namespace_hides_no_code(tmp_path: Path, zipped: bool) -> None:
    """The options of a training may be in a namespace, but what they hold is checked as all else is."""
    path = tmp_path / "a.pt"
    content = {"args": Namespace(lr=0.1, names=["a"]), "state_dict": network().state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(dict(read_tensors(read_bytes(path), path)), dict(network().state_dict()))
    torch.save({**content, "args": Namespace(model=network())}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"loading that could run code \(.*torch\.nn\.modules"):
        read_tensors(read_bytes(path), path)


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_dense(tmp_path: Path) -> None:
    """They are refused by name, also under one of several keys."""
    tensors = {
        "sparse": torch.eye(2).to_sparse(),
        r"without values \(of the device meta\)": torch.empty(2, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }
    for kind, tensor in tensors.items():
        for content in ({"w": tensor}, {"state_dict": {"w": torch.ones(2)}, "model": {"w": tensor}}):
            torch.save(content, tmp_path / "a.pt")
            refused(tmp_path / "a.pt", rf"holds a tensor that is {kind}, (model\.)?w: save dense")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_expand(tmp_path: Path, zipped: bool) -> None:
    """One number that stands for 400 GB is refused before anything looks at them; tied and shared tensors are read."""
    path = tmp_path / "a.pt"
    expanded = torch.zeros(1).expand(10**5, 10**6)
    torch.save({"weight": torch.rand(3), "mask": expanded}, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"has [\d,]+ bytes, and its tensors would take 400,000,000,012: save each as tensor\.contiguous")
    state = {"weight": torch.rand(10**6), "mask": torch.zeros(1).expand(8, 8)}
    torch.save({"model": state, "ema": state, "tied": state["weight"]}, path, _use_new_zipfile_serialization=zipped)
    assert same(read(path), state)


def packed(path: Path, tensors: dict[str, Tensor], *, copies: int = 1) -> None:
    """A file of torch.save whose records are packed, as by a program that archives files."""
    torch.save(tensors, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
        for number in range(copies - 1):
            archive.writestr(f"archive/data/{number + 10}", bytes(10**7))


def test_archives_that_unpack_to_far_more(tmp_path: Path) -> None:
    """An archive of zeros is refused before it is unpacked; packed weights are read."""
    path = tmp_path / "a.pt"
    packed(path, {"a": torch.zeros(5 * 10**6)})
    refused(path, r"has [\d,]+ bytes and unpacks to 20,000,\d+: save it again with torch\.save, which packs nothing")
    packed(path, {"a": torch.zeros(5)}, copies=3)
    refused(path, r"unpacks to 20,000,\d+")
    weights = {"a": torch.rand(5 * 10**6)}
    packed(path, weights)
    assert same(read(path), weights)

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustbench_cli.benchmarks.checkpoints.weights_file import (
    LoadedWeights,
    fill,
    read_bytes,
    read_metadata,
    read_tensors,
)
from robustbench_cli.core.errors import UserError


def network() -> nn.Sequential:
    """A small network with a BatchNorm, whose state dict has a counter that is no float."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), flatten=nn.Flatten(), fc=nn.Linear(8, 3))
    )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file."""
    return read_tensors(read_bytes(path), path)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two state dicts are bit-equal."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


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


@pytest.mark.parametrize(
    "prefixes",
    [[], ["module."], ["model."], ["_orig_mod."], ["module.", "_orig_mod."], ["_orig_mod.", "module.", "model."]],
)
def test_prefixes_are_understood(tmp_path: Path, prefixes: list[str]) -> None:
    """What DataParallel, torch.compile and wrapper modules put before every name is taken off."""
    expected = network().state_dict()
    tensors = {"".join(prefixes) + name: tensor * 2 for name, tensor in expected.items()}
    model = network()
    fill(model, tensors, tmp_path / "a.pt", spec="small-cnn")
    assert same(dict(model.state_dict()), {name: tensor * 2 for name, tensor in expected.items()})


def test_a_models_own_prefix_is_kept(tmp_path: Path) -> None:
    """Names that begin as a wrapper's do, and are the model's own, stay as they are."""
    wrapped = nn.ModuleDict({"model": network()})
    fill(wrapped, {name: tensor * 2 for name, tensor in wrapped.state_dict().items()}, tmp_path / "a.pt", spec="x")
    assert torch.equal(wrapped["model"].state_dict()["fc.bias"], network().state_dict()["fc.bias"] * 2)


def test_a_missing_counter_of_batch_norm_is_no_fault(tmp_path: Path) -> None:
    """State dicts from before PyTorch 0.4.1 lack the counter, which changes nothing in eval()."""
    tensors = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    fill(network(), tensors, tmp_path / "a.pt", spec="x")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    """The line names a few of the missing, left-over and mis-shaped tensors, and fills in nothing."""
    model = network()
    tensors = {"conv.weight": torch.zeros(2, 3, 3, 3), "conv.bias": torch.zeros(2), "extra.a": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        fill(model, tensors, tmp_path / "a.pt", spec="small-cnn")
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/a.pt does not fit small-cnn: missing norm.weight, norm.bias, norm.running_mean"
    )
    assert "and 3 more; unexpected extra.a; of another shape conv.weight (2, 3, 3, 3) for (2, 1, 3, 3)" in message
    assert same(dict(model.state_dict()), dict(network().state_dict()))


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
    """A missing file gets the name of the nearest one beside it; a folder is told from a file."""
    (tmp_path / "resnet18.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint .*/resnet8.pth: did you mean 'resnet18.pth'"):
        read_bytes(tmp_path / "resnet8.pth")
    with pytest.raises(UserError, match=r"no checkpoint .*/x/y.pth: there are none"):
        read_bytes(tmp_path / "x" / "y.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_bytes(tmp_path)


def scaled(factor: float) -> dict[str, Tensor]:
    """The network's state dict with every weight times a factor, so that one is told from another."""
    return {name: tensor * int(factor) for name, tensor in network().state_dict().items()}


def factor_of(model: nn.Module) -> float:
    """The factor of the state dict that a model has been filled with."""
    return (model.state_dict()["conv.weight"] / network().state_dict()["conv.weight"]).mean().item()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with a prefix before each name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def filled(path: Path, content: Any) -> tuple[nn.Module, LoadedWeights]:
    """A fresh network with what a file of this content holds, and what was taken."""
    torch.save(content, path)
    model = network()
    return model, fill(model, read_tensors(read_bytes(path), path), path, spec="small-cnn")


MU, SIGMA = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (scaled(2), ""),
        ({"state_dict": scaled(2)}, "took 'state_dict'"),
        ({"epoch": 3, "model_state": scaled(2), "optimizer": {"state": {0: {"exp_avg": MU}}}}, "took 'model_state'"),
        ({"ema_state_dict": scaled(2)}, "took 'ema_state_dict'"),
        ({"params": scaled(2)}, "took 'params'"),
        ({"classifier": scaled(2)}, "took 'classifier'"),
        ({"net": {"state_dict": scaled(2)}}, "took 'net.state_dict'"),
        ({**scaled(2), "epoch": 3, "best_acc": 0.9, "arch": "cnn"}, ""),
        (prefixed("module.0.", scaled(2)), "took the names that begin with '0.'"),
        (prefixed("backbone.encoder.", scaled(2)), "took the names that begin with 'backbone.encoder.'"),
        ({"state_dict": prefixed("model.", scaled(2))}, "took 'state_dict' and the names that begin with 'model.'"),
        (
            prefixed("1.", scaled(2)),
            "took the names that begin with '1.'; the layers before it are not in the file: give --mean and --std if they normalized the images",
        ),
        # Averages before the best before the last, and the line names what was left.
        (
            {"model": scaled(3), "model_ema": scaled(2)},
            "took 'model_ema' (and not 'model', which would fit too)",
        ),
        (
            {"state_dict": scaled(3), "best": scaled(4), "averaged": prefixed("module.", scaled(2))},
            "took 'averaged' (and not 'best', 'state_dict', which would fit too)",
        ),
        (
            {"net": scaled(3), "best_state_dict": scaled(2)},
            "took 'best_state_dict' (and not 'net', which would fit too)",
        ),
        # What does not fit is no alternative, whatever it is called.
        ({"ema": {"shadow.0": MU}, "net": scaled(2)}, "took 'net'"),
        ({"ema": {"conv.weight": torch.full((2, 1, 3, 3), torch.nan)}, "net": scaled(2)}, "took 'net'"),
        (
            {**prefixed("model.", scaled(3)), **prefixed("ema_model.", scaled(2))},
            "took the names that begin with 'ema_model.' (and not the names that begin with 'model.', which would fit too)",
        ),
    ],
    ids=lambda value: value or "plain" if isinstance(value, str) else "",
)
def test_checkpoints_as_people_save_them(tmp_path: Path, content: Any, words: str) -> None:
    """The weights that are meant get into the model, and the line says which they were and which others there are."""
    path = tmp_path / "a.pt"
    model, taken = filled(path, content)
    assert factor_of(model) == pytest.approx(2)
    assert taken.message == (f"{path}: {words}" if words else "")
    assert taken.has_alternatives == ("would fit too" in words)
    assert taken.mean is taken.std is None


def test_what_torchs_own_wrappers_save(tmp_path: Path) -> None:
    """DataParallel, torch.compile of the whole and of a part, an averaged model, and all of them at once."""
    model = network()
    model.load_state_dict(scaled(2))
    inside = network()
    inside.load_state_dict(scaled(2))
    inside.conv = torch.compile(inside.conv)
    for wrapped in (
        nn.DataParallel(model),
        torch.compile(model),
        AveragedModel(model),
        AveragedModel(nn.DataParallel(model)),
        inside,
        nn.DataParallel(torch.compile(inside)),
    ):
        found, taken = filled(tmp_path / "a.pt", {"state_dict": wrapped.state_dict()})
        assert same(dict(found.state_dict()), scaled(2))
        assert taken.message.endswith("a.pt: took 'state_dict'")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({**prefixed("model.", scaled(2)), "mu": MU, "sigma": SIGMA}, "mu and sigma"),
        (
            {
                **prefixed("module.model.", scaled(2)),
                "module.mu": MU[:, None, None],
                "module.sigma": SIGMA[:, None, None],
            },
            "",
        ),
        ({**scaled(2), "mean": MU.view(1, 3, 1, 1), "std": SIGMA.view(1, 3, 1, 1)}, "mean and std"),
        ({**prefixed("1.", scaled(2)), "0.mean": MU, "0.std": SIGMA}, "0.mean and 0.std"),
        (
            {"state_dict": {**prefixed("net.", scaled(2)), "normalize.mu": MU, "normalize.sigma": SIGMA}},
            "normalize.mu and",
        ),
        (
            {**prefixed("m.", scaled(2)), "norm.pixel_mean": MU, "norm.pixel_std": SIGMA},
            "norm.pixel_mean and norm.pixel_std",
        ),
        ({**prefixed("m.", scaled(2)), "n._mean": MU.double(), "n._std": SIGMA.double()}, "n._mean and n._std"),
    ],
    ids=str,
)
def test_the_normalization_in_a_file(tmp_path: Path, content: Any, names: str) -> None:
    """A mean and std beside the network are its normalization, in the numbers in which they were written."""
    model, taken = filled(tmp_path / "a.pt", content)
    assert factor_of(model) == pytest.approx(2)
    assert (taken.mean, taken.std) == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    assert f"the normalization of {names}" in taken.message
    assert "--mean" not in taken.message


def test_a_given_normalization_is_that_of_the_file_or_refused(tmp_path: Path) -> None:
    """Saying the same again changes nothing; saying another is one line; where the file has none, what is given holds."""
    taken = LoadedWeights(mean=(0.4914, 0.4822, 0.4465), std=(0.5,))
    path = tmp_path / "a.pt"
    assert taken.normalization(None, None, path) == {"mean": (0.4914, 0.4822, 0.4465), "std": (0.5,)}
    assert taken.normalization((0.4914, 0.4822, 0.4465), (0.5, 0.5, 0.5), path)["std"] == (0.5, 0.5, 0.5)
    assert LoadedWeights().normalization((0.5,), (0.25,), path) == {"mean": (0.5,), "std": (0.25,)}
    with pytest.raises(
        UserError, match=r"has the mean 0\.4914,0\.4822,0\.4465 in it, not 0\.5: leave --mean and --std out"
    ):
        taken.normalization((0.5,), (0.5,), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**scaled(2), "mean": MU}, "unexpected mean: check"),
        ({**scaled(2), "mean": MU, "sigma": SIGMA, "other": MU}, "unexpected other: check"),
        ({**scaled(2), "a.mean": MU, "b.std": SIGMA}, "unexpected a.mean, b.std"),
        (
            {**scaled(2), "a.mean": MU, "a.std": SIGMA, "b.mean": MU, "b.std": SIGMA},
            "unexpected a.mean, a.std, b.mean and 1 more",
        ),
        ({**scaled(2), "mean": torch.zeros(64), "std": torch.ones(64)}, "unexpected mean, std"),
        ({"net": scaled(2) | {"extra": MU}, "ema": {"shadow": MU}}, "unexpected extra"),
        (prefixed("module.", scaled(3)) | {"conv.bias": MU}, "unexpected conv.bias"),
        (prefixed("a.", scaled(2)) | prefixed("b.", {"head.weight": MU}), "unexpected b.head.weight"),
        (
            {"ema": prefixed("x.", {name: tensor for name, tensor in scaled(2).items() if name != "fc.bias"})},
            "missing fc.bias",
        ),
        (
            {"net": scaled(2) | {"fc.bias": torch.full((3,), torch.nan)}, "other": scaled(2)},
            "holds NaN or infinity in fc.bias",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_over_is_named(tmp_path: Path, content: Any, message: str) -> None:
    """Only a mean and a std side by side are a normalization; anything else that the model lacks is not passed over."""
    with pytest.raises(UserError, match=message) as caught:
        filled(tmp_path / "a.pt", content)
    assert "\n" not in str(caught.value)

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet
from robustbench_cli.benchmarks.weights.fill import LoadedWeights, OtherClassesError, fill
from robustbench_cli.benchmarks.weights.weights_file import read_bytes, read_tensors
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.depthwise import DepthwiseSeparable

from .conftest import network, same


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


def test_a_layer_takes_its_size_from_the_file(tmp_path: Path) -> None:
    """A newly built layer does not know how many pairs of its weights were left; one that cannot be is refused."""
    saved, built = (nn.Sequential(DepthwiseSeparable(nn.Conv2d(2, 3, 2))) for _ in range(2))
    layer = saved[0]
    assert isinstance(layer, DepthwiseSeparable)
    layer.keep(torch.tensor([1, 5]))
    state = saved.state_dict()
    fill(built, state, tmp_path / "a.pt", spec="x")
    images = torch.rand(4, 2, 5, 5)
    assert torch.equal(built(images), saved(images))
    with pytest.raises(UserError, match=r"a\.pt does not fit x: of another shape 0\.depthwise\.weight"):
        fill(built, state | {"0.channels": torch.zeros(3, dtype=torch.int64)}, tmp_path / "a.pt", spec="x")
    with pytest.raises(UserError, match=r"a\.pt does not fit x: 0\.channels has to be 1 to 6 integers from 0 to 1$"):
        fill(built, state | {"0.channels": torch.tensor([2])}, tmp_path / "a.pt", spec="x")


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


def convolutional(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


@pytest.mark.parametrize(
    ("channels", "classes", "way_out"),
    [
        (3, 10, "give --channels 3 for its images"),
        (1, 100, "give --classes 100"),
        (3, 100, "give --channels 3 for its images and --classes 100"),
        (
            5,
            10,
            "check the model, the classes and the images' shape, or name your own network, as in --model net.py:build",
        ),
    ],
)
def test_other_channels_or_classes(channels: int, classes: int, way_out: str) -> None:
    """The line names the option, if nothing else differs."""
    with pytest.raises(UserError, match=f": {way_out}$") as caught:
        fill(convolutional(1, 10), convolutional(channels, classes).state_dict(), Path("a.pt"), spec="x")
    assert isinstance(caught.value, OtherClassesError) == (classes != 10)


def test_position_embeddings_of_another_image_size() -> None:
    """Where a vision transformer of timm differs in nothing else, the line names the image size."""
    small, large = (timm.create_model("test_vit", img_size=size).state_dict() for size in (32, 64))
    model = timm.create_model("test_vit", img_size=32)
    with pytest.raises(UserError, match=": its position embeddings are for images of another size: give --image-size"):
        fill(model, large, Path("a.pt"), spec="x")
    assert not fill(model, small, Path("a.pt"), spec="x").message


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


def layouts() -> dict[str, tuple[Any, str]]:
    """The files of known programs, by program, with what is said of them."""
    old = scaled(3)
    pair = {"new_mean": MU.view(3, 1, 1), "new_std": SIGMA.view(3, 1, 1)}
    madry = {
        **prefixed("module.model.", scaled(2)),
        **prefixed("module.normalizer.", pair),
        **prefixed("module.attacker.model.", scaled(2)),
        **prefixed("module.attacker.normalize.", pair),
    }
    lightning = {**prefixed("net.", scaled(2)), "val_acc.total": torch.tensor(3), "criterion.weight": torch.ones(3)}
    record = {"optimizer_states": [{"state": {0: {"exp_avg": MU}}}], "hyper_parameters": {"lr": 0.1}, "loops": {}}
    return {
        "robustness": (
            {"model": madry, "epoch": 3, "optimizer": {"state": {}}, "schedule": None},
            "took 'model' and the names that begin with 'model.'; the normalization of module.normalizer.new_mean and module",
        ),
        "lightning": (
            {"epoch": 1, "state_dict": lightning, "pytorch-lightning_version": "2.5.0", **record},
            "begin with 'net.'; left out val_acc.total, criterion.weight, which the network does not use",
        ),
        "timm": (
            {
                "arch": "x",
                "args": Namespace(lr=0.1),
                "state_dict": old,
                "state_dict_ema": prefixed("module.", scaled(2)),
            },
            "took 'state_dict_ema' (and not 'state_dict', which would fit too)",
        ),
        "deit": ({"model": scaled(2), "args": Namespace(img_size=(3, 4, 4))}, "took 'model'"),
        "robustbench": ({"state_dict": prefixed("module.1.model.", scaled(2))}, "took 'state_dict' and the names that"),
        "fabric": (
            {"model": prefixed("_forward_module.", scaled(2))},
            "took 'model' and the names that begin with '_for",
        ),
        "fsdp": (prefixed("_fsdp_wrapped_module.", scaled(2)), ""),
        "accelerate": (prefixed("module._orig_mod.", scaled(2)), ""),
    }


@pytest.mark.parametrize("program", list(layouts()))
def test_the_files_of_known_programs(tmp_path: Path, program: str) -> None:
    """Their weights and their normalization are understood without a word, whatever else they save."""
    content, words = layouts()[program]
    model, taken = filled(tmp_path / "a.pt", content)
    assert factor_of(model) == pytest.approx(2)
    assert words in taken.message
    assert bool(words) == bool(taken.message)
    expected = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)) if program == "robustness" else (None, None)
    assert (taken.mean, taken.std) == expected


def test_what_changes_the_images_is_not_left_out(tmp_path: Path) -> None:
    """A module beside the network is left out only if it measures; two normalizations that differ are not guessed."""
    network = prefixed("net.", scaled(2))
    with pytest.raises(UserError, match=r"unexpected denoiser\.weight"):
        filled(tmp_path / "a.pt", {**network, "denoiser.weight": torch.ones(3)})
    with pytest.raises(UserError, match=r"unexpected a\.mean, a\.std, b\.mean and 1 more"):
        filled(tmp_path / "a.pt", {**network, "a.mean": MU, "a.std": SIGMA, "b.mean": MU / 2, "b.std": SIGMA})
    twice = {**network, **prefixed("ema.", scaled(2))}
    with pytest.raises(UserError, match=r"unexpected a\.mean, a\.std, b\.mean and 1 more"):
        filled(tmp_path / "a.pt", {**twice, "a.mean": MU, "a.std": SIGMA, "b.mean": MU / 2, "b.std": SIGMA})


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


@pytest.mark.parametrize(
    ("beside", "names"),
    [
        ({"mean": MU, "std": SIGMA}, "mean and std"),
        ({"normalize": {"mean": MU.view(1, 3, 1, 1), "std": SIGMA}}, "normalize.mean and normalize.std"),
        ({"mean": MU.tolist(), "std": tuple(SIGMA.tolist()), "history": [1.0, 2.0], "epoch": 3}, "mean and std"),
    ],
)
def test_the_normalization_outside_of_the_state_dict(tmp_path: Path, beside: dict[str, Any], names: str) -> None:
    """A mean and std in the file beside a nested state dict hold as those inside of it; two that differ are refused."""
    model, taken = filled(tmp_path / "a.pt", {"state_dict": scaled(2), **beside})
    assert factor_of(model) == pytest.approx(2)
    assert taken.mean == pytest.approx((0.4914, 0.4822, 0.4465))
    assert taken.std == pytest.approx((0.2471, 0.2435, 0.2616))
    assert f"the normalization of {names}" in taken.message
    with pytest.raises(UserError, match=r"more than one normalization .*--mean and --std"):
        filled(tmp_path / "a.pt", {"state_dict": scaled(2), **beside, "a.mean": MU / 2, "a.std": SIGMA})


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


def test_layers_of_a_file_that_the_network_does_not_use(tmp_path: Path) -> None:
    """TRADES' files of a wide ResNet have a fourth group: the line says that it is left out, and the logits are the same."""
    model, fresh = (WideResNet(depth=10, width=1, channels=3, classes=4) for _ in range(2))
    state = model.state_dict()
    unused = {f"sub_{name}": tensor for name, tensor in state.items() if name.startswith("block1.")}
    path = tmp_path / "trades.pt"
    torch.save({"state_dict": prefixed("module.", state | unused)}, path)
    taken = fill(fresh, read_tensors(read_bytes(path), path), path, spec="wrn-10-1")
    assert "left out module.sub_block1.layer.0.bn1.weight" in taken.message
    assert same(fresh.state_dict(), state)
    with pytest.raises(UserError, match=r"unexpected module\.sub_block2"):
        torch.save(prefixed("module.", state | {"sub_block2.weight": torch.ones(1)}), path)
        fill(fresh, read_tensors(read_bytes(path), path), path, spec="wrn-10-1")


@pytest.mark.parametrize(
    "rest",
    [
        {f"{number}.{name}": torch.zeros(3) for number in range(10_000) for name in ("mean", "std")},
        {f"x{'.a' * 100_000}": torch.zeros(3)},
        {f"{number}.{name}": torch.zeros(2) for number in range(10_000) for name in ("weight", "bias")},
    ],
    ids=["pairs", "dots", "copies"],
)
def test_the_time_does_not_grow_with_the_square_of_a_file(rest: dict[str, Tensor]) -> None:
    """Many pairs of a mean and a std, a name of many parts, and many networks in a file; the square would take minutes."""
    network = nn.BatchNorm1d(2, track_running_stats=False)
    began = time.process_time()
    with suppress(UserError):
        fill(network, {"net.weight": torch.ones(2), "net.bias": torch.ones(2), **rest}, Path("a.pt"), spec="x")
    assert time.process_time() - began < 20


def test_a_network_without_tensors_is_no_error_of_ours(tmp_path: Path) -> None:
    """There is nothing to fill in, and the file's tensors are named as unexpected."""
    fill(nn.Flatten(), {}, tmp_path / "a.pt", spec="own.py:Net")
    with pytest.raises(UserError, match="unexpected extra"):
        fill(nn.Flatten(), {"extra": torch.zeros(1)}, tmp_path / "a.pt", spec="own.py:Net")

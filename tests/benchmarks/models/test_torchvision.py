from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from robustbench_cli.benchmarks.models.base.build import build_model, build_untrained
from robustbench_cli.benchmarks.models.base.source import model_source
from robustbench_cli.core.errors import UserError

SPEC = "torchvision:squeezenet1_1@IMAGENET1K_V1"
FILE = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch keeps downloads, and from which it reads them without the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(folder: Path) -> dict[str, Tensor]:
    """Weights in torchvision's cache, under the name of the published file."""
    torch.manual_seed(5)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, folder / FILE)
    return dict(state)


def test_it_is_torchvisions_network() -> None:
    """For color images nothing is changed: the same seed gives torchvision's own weights."""
    torch.manual_seed(3)
    ours = build_model("torchvision:resnet18", shape=(3, 32, 32), classes=7).state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(num_classes=7).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_the_first_convolution_takes_the_images_channels(name: str) -> None:
    """For gray images only the first convolution's input changes; every other tensor keeps its shape."""
    ours = build_model(f"torchvision:{name}", shape=(1, 64, 64), classes=5)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5).state_dict()
    changed = {key: value.shape for key, value in ours.state_dict().items() if value.shape != theirs[key].shape}
    first = next(iter(theirs))
    assert changed == {first: (theirs[first].shape[0], 1, *theirs[first].shape[2:])}
    assert ours.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 5)


def test_unknown_network() -> None:
    """An unknown name gets the nearest of torchvision's classification networks."""
    with pytest.raises(UserError, match="no classification network 'resnet8': did you mean 'resnet18'"):
        build_model("torchvision:resnet8", shape=(3, 32, 32), classes=10)


@pytest.mark.parametrize("spec", ["torchvision", "torchvision:"])
def test_no_network_named(spec: str) -> None:
    """The name alone says what has to follow it."""
    with pytest.raises(UserError, match="give torchvision:NAME"):
        build_model(spec, shape=(3, 32, 32), classes=10)


def test_a_network_for_another_size_is_refused() -> None:
    """A vision transformer for 224 x 224 images does not take smaller ones, and this is said before it is trained."""
    with pytest.raises(UserError, match=r"model torchvision:vit_b_32 fails on images of shape \(3, 32, 32\)"):
        build_model("torchvision:vit_b_32", shape=(3, 32, 32), classes=10)


def test_published_weights_with_torchvisions_own_preprocessing(torch_home: Path) -> None:
    """The logits are those of torchvision's network behind torchvision's normalization."""
    published(torch_home)
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    theirs = torchvision.models.squeezenet1_1(weights=weights).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1) for values in (weights.transforms().mean, weights.transforms().std)
    )
    ours = build_model(SPEC, shape=(3, 64, 64), classes=1000).eval()
    torch.testing.assert_close(ours(images), theirs((images - mean) / std))


def test_what_torchvision_says_of_its_weights() -> None:
    """Its preset of transforms and its categories; ``DEFAULT`` and the enumeration's name are the same weights."""
    for weights in ("IMAGENET1K_V2", "DEFAULT", "ResNet50_Weights.IMAGENET1K_V2"):
        source = model_source(f"torchvision:resnet50@{weights}")
        assert source is not None
        assert source.spec == "torchvision:resnet50@IMAGENET1K_V2"
        metadata = source.metadata
        assert (metadata.classes, metadata.class_names[0], metadata.channels) == (1000, "tench", 3)
        assert (metadata.image_size, metadata.resize, metadata.interpolation) == ((224, 224), 232, "bilinear")
        assert metadata.mean == (0.485, 0.456, 0.406)
        assert metadata.origin == source.fingerprint == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"


def test_a_ported_network_normalizes_as_its_weights_expect() -> None:
    """Torchvision switches this on for GoogLeNet and Inception with weights; a checkpoint builds the same again."""
    network = build_untrained("torchvision:googlenet@DEFAULT", shape=(3, 64, 64), classes=10)
    assert network.transform_input is True


def test_weights_that_cannot_be_had(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, no network, a file cut short, and a file that would run code are one line each."""
    with pytest.raises(UserError, match="no weights 'IMAGENET1K_V9' of squeezenet1_1: did you mean 'IMAGENET1K_V1'"):
        build_model("torchvision:squeezenet1_1@IMAGENET1K_V9", shape=(3, 64, 64), classes=1000)

    def offline(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in name resolution")

    with monkeypatch.context() as patch:
        patch.setattr("torch.hub.urlopen", offline)
        with pytest.raises(
            UserError, match=rf"{FILE} cannot be downloaded \(URLError.*go online, or put this file into"
        ):
            build_model(SPEC, shape=(3, 64, 64), classes=1000)
    published(torch_home)
    whole = (torch_home / FILE).read_bytes()
    (torch_home / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{FILE} is cut off or damaged"):
        build_model(SPEC, shape=(3, 64, 64), classes=1000)
    torch.save({"state_dict": torch.nn.Linear(2, 2)}, torch_home / FILE)
    with pytest.raises(UserError, match=rf"{FILE} is cut off or damaged .*Weights only load failed"):
        build_model(SPEC, shape=(3, 64, 64), classes=1000)


def test_weights_for_other_data() -> None:
    """Neither another number of classes nor gray images are made to fit."""
    with pytest.raises(UserError, match="has 1,000 classes, and 10 are asked for"):
        build_model(SPEC, shape=(3, 64, 64), classes=10)
    with pytest.raises(UserError, match=r"takes images with 3 channels, these have 1: .* with --channels 3$"):
        build_model(SPEC, shape=(1, 64, 64), classes=1000)

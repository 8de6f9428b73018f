from __future__ import annotations

import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.core.errors import UserError


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

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.models.resnet18_cifar import ResNet18Cifar
from robustbench_cli.benchmarks.weights.fill import fill, fits
from robustbench_cli.core.errors import UserError

from .conftest import as_trained, parameters


def test_parameter_count_is_the_published_one() -> None:
    """11,173,962 parameters, as the summaries of pytorch-cifar's ResNet18 say."""
    assert parameters("resnet18-cifar") == 11_173_962


def test_it_is_torchvisions_with_another_stem() -> None:
    """The same weights in torchvision's ResNet-18, with a 3 x 3 first convolution and no first pool, give the same logits."""
    torch.manual_seed(0)
    ours = as_trained(ResNet18Cifar(shape=(3, 32, 32), classes=10))
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    names = {name: name.replace("shortcut", "downsample").replace("linear", "fc") for name in ours.state_dict()}
    theirs.load_state_dict({names[name]: tensor for name, tensor in ours.state_dict().items()}, strict=True)
    images = torch.rand(2, 3, 32, 32)
    expected = theirs.eval()(images)
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
    # A file with torchvision's names fits, also below a prefix; a wider layer does not.
    read = ResNet18Cifar(shape=(3, 32, 32), classes=10).eval()
    weights = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    assert fits(read, weights)
    fill(read, weights, Path("net.pt"), spec="resnet18-cifar")
    torch.testing.assert_close(read(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"does not fit resnet18-cifar: .*unexpected module\.layer2\.0\.downsample"):
        fill(read, weights | {"module.fc.bias": torch.zeros(9)}, Path("net.pt"), spec="resnet18-cifar")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels, other sizes."""
    build_model("resnet18-cifar", shape=shape, classes=7)

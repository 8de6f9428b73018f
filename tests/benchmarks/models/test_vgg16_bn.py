from __future__ import annotations

import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.models.vgg16_bn import VGG16BN

from .conftest import as_trained, parameters


def test_parameter_count_is_the_published_one() -> None:
    """Torchvision's page says 138,365,992 for vgg16_bn: less its three linear layers, plus the one here."""
    linear = (25_088 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert parameters("vgg16-bn") == 138_365_992 - linear + (512 + 1) * 10


def test_its_convolutions_are_torchvisions() -> None:
    """The same weights in torchvision's convolutions give the same features, and their mean goes to the linear layer."""
    torch.manual_seed(0)
    ours = as_trained(VGG16BN(shape=(3, 32, 32), classes=10))
    theirs = torchvision.models.vgg16_bn(num_classes=1).features
    theirs.load_state_dict(ours.get_submodule("features").state_dict(), strict=True)
    images = torch.rand(2, 3, 64, 64)
    features = theirs.eval()(images)
    assert features.shape == (2, 512, 2, 2)
    torch.testing.assert_close(ours(images), ours.get_submodule("classifier")(features.mean((2, 3))))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels; 28 is not divisible by 32."""
    build_model("vgg16-bn", shape=shape, classes=7)

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.core.errors import UserError


@pytest.fixture
def small() -> SmallCNN:
    """The network for digits."""
    return SmallCNN(shape=(1, 8, 8), classes=10).eval()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 9, 13)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    """Images of any shape from 8 x 8 on, also of odd sizes, give (N, K)."""
    assert SmallCNN(shape=shape, classes=5)(torch.rand(3, *shape)).shape == (3, 5)


def test_it_learns_the_digits() -> None:
    """Two epochs on the digits are enough for 80 % of the test images."""
    digits = load_dataset("digits")
    torch.manual_seed(0)
    model = SmallCNN(shape=digits.shape, classes=digits.classes)
    images, labels = digits.split("train").batch(torch.arange(1297))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(2):
        for rows in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    images, labels = digits.split("test").batch(torch.arange(500))
    assert (model(images).argmax(1) == labels).float().mean() > 0.8


def test_hrs_can_split_it(small: SmallCNN) -> None:
    """torch.fx traces it, and the traced network computes the same."""
    images = torch.rand(3, 1, 8, 8)
    traced = torch.fx.symbolic_trace(small)
    assert torch.equal(traced(images), small(images))
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}


def test_smaller_images_are_refused() -> None:
    """Below 8 x 8 nothing would be left after the pools."""
    with pytest.raises(UserError, match="8x8 and larger, not 8x7"):
        SmallCNN(shape=(1, 8, 7), classes=10)

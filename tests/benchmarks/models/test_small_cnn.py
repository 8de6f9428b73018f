from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 9, 13)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    """Images of any shape from 8 x 8 on, also of odd sizes, give (N, K)."""
    assert SmallCNN(shape=shape, classes=5)(torch.rand(3, *shape)).shape == (3, 5)


def test_number_of_parameters() -> None:
    """On the digits: 160 + 2,320 + 4,640 convolutional and 8,256 + 650 fully connected parameters."""
    model = SmallCNN(shape=(1, 8, 8), classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 160 + 2320 + 4640 + 8256 + 650
    assert {layer.padding for layer in model.children() if isinstance(layer, nn.Conv2d)} == {(1, 1)}


def test_it_can_be_traced() -> None:
    """torch.fx finds the layers by their names."""
    graph = torch.fx.symbolic_trace(SmallCNN(shape=(1, 8, 8), classes=10)).graph
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    assert targets == [
        *("conv1", "relu1", "conv2", "relu2", "pool1", "conv3", "relu3", "pool2", "flatten", "fc1", "relu4", "fc2"),
    ]


def test_smaller_images_are_refused() -> None:
    """Below 8 x 8 nothing would be left after the pools."""
    with pytest.raises(UserError, match="8x8 and larger, not 8x7"):
        SmallCNN(shape=(1, 8, 7), classes=10)

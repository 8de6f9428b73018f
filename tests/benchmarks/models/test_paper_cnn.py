from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("shape", "convolutions", "linears", "dropout"),
    [
        ((1, 28, 28), [(1, 32), (32, 32), (32, 64), (64, 64)], [(1024, 200), (200, 200), (200, 10)], 0.3),
        ((3, 32, 32), [(3, 64), (64, 64), (64, 128), (128, 128)], [(3200, 256), (256, 256), (256, 10)], 0.7),
    ],
)
def test_layers_are_the_papers(
    shape: tuple[int, int, int], convolutions: list[tuple[int, int]], linears: list[tuple[int, int]], dropout: float
) -> None:
    """Channels, widths, dropout and their order are those of Wang et al., Appendix A."""
    model = PaperCNN(shape=shape, classes=10)
    layers = list(model.children())
    found = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in found] == convolutions
    assert {(layer.kernel_size, layer.padding) for layer in found} == {((3, 3), (0, 0))}
    assert [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)] == linears
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [dropout]
    kinds = "".join(type(layer).__name__[0] for layer in layers)
    assert kinds == "CRCRM" * 2 + "FLRDLRL"
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_it_is_the_reference_network() -> None:
    """The same weights in a network written with functionals give the same logits."""
    model = PaperCNN(shape=(1, 28, 28), classes=7).eval()
    images = torch.rand(3, 1, 28, 28)
    weights = dict(model.named_parameters())

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        function = nn.functional.conv2d if name.startswith("conv") else nn.functional.linear
        return function(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden = layer(layer(images, "conv1").relu(), "conv2").relu()
    hidden = nn.functional.max_pool2d(hidden, 2)
    hidden = nn.functional.max_pool2d(layer(layer(hidden, "conv3").relu(), "conv4").relu(), 2).flatten(1)
    expected = layer(layer(layer(hidden, "fc1").relu(), "fc2").relu(), "fc3")
    torch.testing.assert_close(model(images), expected)


def test_it_can_be_traced() -> None:
    """torch.fx finds every layer by its name, so that a defense can split the network anywhere."""
    graph = torch.fx.symbolic_trace(PaperCNN(shape=(3, 32, 32), classes=10)).graph
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    assert targets == [
        *("conv1", "relu1", "conv2", "relu2", "pool1", "conv3", "relu3", "conv4", "relu4", "pool2"),
        *("flatten", "fc1", "relu5", "dropout", "fc2", "relu6", "fc3"),
    ]


def test_other_shapes_are_refused() -> None:
    """A shape that the paper has no network for is named, with what would do."""
    with pytest.raises(UserError, match="28x28 or 3x32x32, not 1x8x8: use small-cnn or torchvision:NAME"):
        PaperCNN(shape=(1, 8, 8), classes=10)

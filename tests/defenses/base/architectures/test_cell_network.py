from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from robustbench_cli.defenses.base.architectures.architecture import KINDS, NONE, OPERATIONS, Architecture
from robustbench_cli.defenses.base.architectures.cell_network import CellNetwork, Edge

ARCHITECTURE = Architecture.parse("4x2,sep3-skip-none-max-sep5,skip-avg-none-max-skip,sep3-sep5-sep3-none-avg")


def test_an_edge_is_the_weighted_sum_of_its_operations() -> None:
    """By hand, in eval() mode, where new running statistics are a factor of ``(1 + 1e-5) ** -0.5``."""
    torch.manual_seed(0)
    edge = Edge(OPERATIONS, 3, 1).eval()
    features, weights = torch.randn(2, 3, 5, 5), torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])

    def separable(name: str, padding: int) -> Tensor:
        _, depthwise, pointwise, _ = edge[name]
        each = functional.conv2d(features.relu(), depthwise.weight, padding=padding, groups=3)
        return torch.einsum("oi,nihw->nohw", pointwise.weight[:, :, 0, 0], each)

    patches = functional.pad(features, (1, 1, 1, 1), value=float("nan")).unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    outputs = [
        separable("sep3", 1),
        separable("sep5", 2),
        features * (1 + 1e-5) ** 0.5,
        patches.nan_to_num(-9e9).amax(4),
        patches.nanmean(4),
    ]
    expected = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
    torch.testing.assert_close(edge(features, weights), expected * (1 + 1e-5) ** -0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
def test_one_hot_weights_give_the_network_of_the_architecture(shape: tuple[int, int, int]) -> None:
    """With the weights that both have. Sizes may be odd, and the second reduction keeps the number of channels."""
    torch.manual_seed(0)
    every = CellNetwork(4, 2, [[OPERATIONS] * 5] * 3, channels=shape[0], classes=4).eval()
    alone = CellNetwork.of(ARCHITECTURE, channels=shape[0], classes=4).eval()
    alone.load_state_dict({name: every.state_dict()[name] for name in alone.state_dict()})
    weights = torch.zeros(len(KINDS), 5, len(OPERATIONS))
    for kind, names in enumerate(ARCHITECTURE.operations):
        for edge, name in enumerate(names):
            if name != NONE:
                weights[kind, edge, OPERATIONS.index(name)] = 1
    images = torch.rand(3, *shape)
    torch.testing.assert_close(every(images, weights), alone(images))
    assert alone.classifier.in_features == 8


def test_each_cell_sees_the_two_before_it() -> None:
    """The first one sees the stem twice: without the stem's part, nothing of the image is left."""
    torch.manual_seed(0)
    network = CellNetwork.of(ARCHITECTURE, channels=1, classes=4).eval()
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, inputs, output: seen.append((*inputs[:2], output)))
    network(torch.rand(1, 1, 8, 8))
    stem = seen[0][0]
    assert seen[0][1] is stem
    assert [
        (before is one, last is other)
        for (before, last, _), one, other in zip(
            seen[1:], [stem, *(cell[2] for cell in seen)], [cell[2] for cell in seen], strict=False
        )
    ] == [(True, True)] * 3
    assert [tuple(cell[2].shape[1:]) for cell in seen] == [(4, 8, 8), (8, 4, 4), (8, 2, 2), (8, 2, 2)]

from __future__ import annotations

import copy

import pytest
import torch

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import OPERATIONS
from robustbench_cli.defenses.base.architectures.searched_network import SearchedNetwork
from robustbench_cli.defenses.base.surgery.resized import resize_layers


def searched(seed: int = 0) -> SearchedNetwork:
    torch.manual_seed(seed)
    network = SearchedNetwork(4, 2, channels=1, classes=4)
    network.begin_search()
    return network.eval()


def test_the_operations_are_mixed_by_the_softmax() -> None:
    network, images = searched(), torch.rand(2, 1, 8, 8)
    weights = network.alphas.exp() / network.alphas.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(network(images), network.network(images, weights))


def test_the_steps_are_those_of_adam() -> None:
    network = searched()
    theirs = network.alphas.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.999), weight_decay=1e-3)
    for step in range(4):
        theirs.grad = torch.sin(torch.arange(75.0) + step).reshape(3, 5, 5)
        adam.step()
        network.descend(theirs.grad, 0.1)
    torch.testing.assert_close(network.alphas, theirs.detach())


def test_the_strongest_edges_of_each_node_stay() -> None:
    """The second node of the accurate cell loses the edge whose best operation is the weakest."""
    network = searched()
    network.alphas.zero_()
    for edge, (name, strength) in enumerate([("max", 3.0), ("skip", 1.0), ("avg", 2.0), ("sep5", 1.0), ("max", 4.0)]):
        network.alphas[0, edge, OPERATIONS.index(name)] = strength
    assert network.architecture.operations[0] == ("max", "skip", "avg", "none", "max")
    inputs = torch.rand(2, 1, 8, 8)
    before = sum(parameter.numel() for parameter in network.parameters())
    network.end_search()
    assert network(inputs).shape == (2, 4)
    assert sum(parameter.numel() for parameter in network.parameters()) < before
    assert not network.is_searching


@pytest.mark.parametrize("ended", [False, True])
def test_a_checkpoint_is_loaded_into_a_new_one(ended: bool) -> None:
    """During the search and after it, into one that has not begun; one that fits keeps its parameters."""
    network = searched()
    network.alphas.normal_()
    if ended:
        network.end_search()
    other = SearchedNetwork(4, 2, channels=1, classes=4).eval()
    resize_layers(other, network.state_dict())
    other.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(other(images), network.eval()(images))
    parameters = [*other.parameters()]
    resize_layers(other, network.state_dict())
    assert all(one is same for one, same in zip(parameters, other.parameters(), strict=True))


def test_a_damaged_state_is_refused() -> None:
    network = searched()
    state = copy.deepcopy(network.state_dict())
    for alphas in (torch.zeros(3, 5, 6), torch.full((3, 5, 5), float("nan"))):
        with pytest.raises(
            UserError, match=r"alphas \(3, 5, .\) are no logits of operations: they are finite, \(3, 5, 5\)"
        ):
            resize_layers(network, state | {"alphas": alphas})

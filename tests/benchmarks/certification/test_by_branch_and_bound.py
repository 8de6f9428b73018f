from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_branch_and_bound import BranchAndBound, splittable
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
from robustbench_cli.benchmarks.comparison.exact import exact_distance
from robustbench_cli.benchmarks.comparison.relu_network import ReLUNetwork
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.core.errors import UserError

DIGITS = first_examples(load_dataset("digits").split("test"), 40)
EPS = 0.06


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network of two hidden layers, trained for some seconds."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    train = first_examples(load_dataset("digits").split("train"), 1000)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        for rows in torch.randperm(len(train)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(network(train.images[rows]), train.labels[rows]).backward()
            optimizer.step()
    return network.eval()


def proven(procedure: LinearRelaxation, model: nn.Module) -> list[bool]:
    records = procedure.examine(
        model, DIGITS.images, indices=range(len(DIGITS)), seed=0, device=torch.device("cpu"), batch_size=None
    )
    return [record.radius > 0 for record in records]


@pytest.fixture(scope="module")
def complete(model: nn.Module) -> list[bool]:
    """What branch and bound proves of each image."""
    return proven(BranchAndBound(eps=(EPS,)), model)


def test_it_proves_what_mixed_integer_programming_proves(model: nn.Module, complete: list[bool]) -> None:
    """No more and no less: the comparison's exact distances come from bounds and a solver of their own."""
    alone = proven(LinearRelaxation(eps=(EPS,)), model)
    network, labels = ReLUNetwork.of(model, DIGITS.images.shape[1:]), model(DIGITS.images).argmax(1).tolist()
    # Two that the relaxation proves too, one that only branch and bound proves, and three that have another class nearby.
    for index in range(6, 12):
        pixels = DIGITS.images[index].flatten().double().numpy()
        distance = exact_distance(network, pixels, labels[index], "linf", upper=2 * EPS, seconds=60)
        assert distance.solved
        assert complete[index] == (distance.lower > EPS)
    assert sum(complete) > sum(alone) + 3
    assert all(later for first, later in zip(alone, complete, strict=True) if first)


def test_no_attack_breaks_a_certified_image(model: nn.Module, complete: list[bool]) -> None:
    """And hardly any image is neither broken nor certified."""
    certain = np.array(complete)
    result = evaluate(model, DIGITS.images, DIGITS.labels, attack=CWPGD(steps=40), norm="linf", eps=EPS)
    unchanged = result.outcomes.worst()[0] == result.outcomes.clean[0]
    right = result.outcomes.clean[0] == DIGITS.labels.numpy()
    assert unchanged[certain & right].all()
    assert (unchanged & right & ~certain).sum() <= 3


def test_networks_without_relu_are_refused() -> None:
    """There is nothing to split; and a limit below one is a mistake."""
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.GELU(), nn.Linear(4, 10))
    with pytest.raises(UserError, match="no ReLU for branch and bound to split: give --method linear"):
        BranchAndBound(eps=(0.1,)).require(smooth, DIGITS.images)
    with pytest.raises(UserError, match="branches is 0: give a number of subproblems, at least 1"):
        BranchAndBound(eps=(0.1,), branches=0)
    with pytest.raises(UserError, match="the method branch-and-bound tries given radii"):
        BranchAndBound(eps=())


def test_the_number_of_relu_inputs(model: nn.Module) -> None:
    """Twenty of the trained network."""
    assert splittable(Network(model, DIGITS.images)) == 20

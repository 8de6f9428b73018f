from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_branch_and_bound import BranchAndBound, splittable
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
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


def smallest_margin(model: nn.Module, image: Tensor, label: int) -> float:
    """The smallest margin over the ball, by mixed-integer programming with bounds by intervals (Tjeng et al., ICLR 2019)."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    low, high = ((image + sign * EPS).clamp(0, 1).flatten().double().numpy() for sign in (-1, 1))
    bounds, integral, previous = [*zip(low, high, strict=True)], [0] * len(low), range(len(low))
    rows: list[tuple[dict[int, float], float]] = []
    for layer in layers[:-1]:
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        below = bias + np.minimum(weight * low, weight * high).sum(1)
        above = bias + np.maximum(weight * low, weight * high).sum(1)
        outputs = range(len(bounds), len(bounds) + len(bias))
        switches = range(outputs.stop, outputs.stop + len(bias))
        low, high = below.clip(min=0), above.clip(min=0)
        bounds += [*zip(low, high, strict=True), *[(0, 1)] * len(bias)]
        integral += [0] * len(bias) + [1] * len(bias)
        for unit in range(len(bias)):
            inputs = dict(zip(previous, -weight[unit], strict=True))
            output, switch = outputs[unit], switches[unit]
            rows.append(({index: -value for index, value in (inputs | {output: 1}).items()}, -bias[unit]))
            rows.append((inputs | {output: 1, switch: -min(below[unit], 0)}, bias[unit] - min(below[unit], 0)))
            rows.append(({output: 1, switch: -max(above[unit], 0)}, 0.0))
        previous = outputs
    matrix = np.zeros((len(rows), len(bounds)))
    for number, (row, _) in enumerate(rows):
        matrix[number, list(row)] = list(row.values())
    constraint = LinearConstraint(matrix, ub=[limit for _, limit in rows])
    weight, bias = layers[-1].weight.detach().double().numpy(), layers[-1].bias.detach().double().numpy()
    margins = []
    for other in {*range(10)} - {label}:
        cost = np.zeros(len(bounds))
        cost[list(previous)] = weight[label] - weight[other]
        result = milp(cost, constraints=constraint, integrality=integral, bounds=np.array(bounds).T)
        margins.append(result.fun + bias[label] - bias[other])
    return min(margins)


def test_it_proves_what_mixed_integer_programming_proves(model: nn.Module) -> None:
    """Image by image where the margin is not tiny; linear relaxation alone proves some of these."""
    alone, complete = (proven(kind(eps=(EPS,)), model) for kind in (LinearRelaxation, BranchAndBound))
    labels = model(DIGITS.images).argmax(1).tolist()
    wrong, compared = 0, 0
    for index in range(6):
        margin = smallest_margin(model, DIGITS.images[index], labels[index])
        if abs(margin) > 0.02:
            compared += 1
            wrong += complete[index] != (margin > 0)
    assert wrong == 0
    assert compared >= 5
    assert sum(complete) > sum(alone) + 3
    assert all(later for first, later in zip(alone, complete, strict=True) if first)


def test_no_attack_breaks_a_certified_image(model: nn.Module) -> None:
    """And hardly any image is neither broken nor certified."""
    certain = np.array(proven(BranchAndBound(eps=(EPS,)), model))
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

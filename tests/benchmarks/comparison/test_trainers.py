from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.trainers import (
    TRAINERS,
    Trained,
    TrainingBudget,
    Weights,
    judged,
    train,
    trainers_table,
)
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN


@pytest.fixture(scope="module")
def network() -> SmallCNN:
    """The small network with fresh weights."""
    torch.manual_seed(0)
    return SmallCNN(shape=(1, 28, 28), classes=10)


def weights_of(network: SmallCNN) -> Weights:
    """What crosses the border of a process."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def test_ours_takes_the_optimizer_of_the_budget(network: SmallCNN, examples: ImageSet) -> None:
    """A step in a ball that moves no pixel is torch's AdamW's, of all weights whose gradient is no matter of rounding."""
    start = weights_of(network)
    budget = TrainingBudget(eps=1e-12, epochs=1, batch_size=4, lr=3e-3)
    arrays = (examples.images.numpy(), examples.labels.numpy())
    trained, seconds = train("advdef", "pgd-at", start, *arrays, budget, 0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    functional.cross_entropy(network(examples.images), examples.labels).backward()
    optimizer.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        plain = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(torch.from_numpy(trained[name])[plain], parameter.detach()[plain])
    assert seconds > 0


@pytest.mark.parametrize("name", TRAINERS)
def test_each_trains_a_copy(network: SmallCNN, examples: ImageSet, name: str) -> None:
    """Every defense that is compared has other weights afterwards, by the same names; what it started from stays."""
    start, before = weights_of(network), weights_of(network)
    budget = TrainingBudget(steps=2, epochs=1, batch_size=2)
    trained, _ = train("advdef", name, start, examples.images.numpy(), examples.labels.numpy(), budget, 0)
    assert trained.keys() == start.keys()
    for key, value in trained.items():
        assert (value != before[key]).any()
        assert (start[key] == before[key]).all()


def test_networks_are_judged_by_their_weights(network: SmallCNN) -> None:
    """A network that says 3 of everything is right about the one image in four that is a 3, whatever attacks it."""
    weights = {name: 0 * value for name, value in weights_of(network).items()}
    weights["fc2.bias"][3] = 10
    test = ImageSet(torch.full((4, 1, 28, 28), 0.5), torch.tensor([1, 2, 3, 4]))
    assert judged(weights, 5.0, test, eps=0.1) == Trained(clean=0.25, robust=0.25, seconds=5.0)


def test_the_table_tells_the_mean_of_the_turns() -> None:
    """Means of the accuracies and the seconds; the ratio is of each turn by itself."""
    found = {
        ("awp", "advdef"): [Trained(0.8, 0.5, 10.0), Trained(0.7, 0.4, 20.0)],
        ("awp", "ART"): [Trained(0.9, 0.6, 30.0), Trained(0.9, 0.3, 40.0)],
    }
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in trainers_table(found).splitlines()[2:]]
    assert cells == [
        ["awp", "advdef", "75.0 %", "45.0 % (40.0 to 50.0)", "15", "1.00"],
        ["awp", "ART", "90.0 %", "45.0 % (30.0 to 60.0)", "35", "2.50 (2.00 to 3.00)"],
    ]

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from robustbench_cli.benchmarks.comparison import trainers
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.trainers import (
    TRAINERS,
    Trained,
    TrainingBudget,
    Weights,
    score,
    train,
    trainers_table,
)
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN


@pytest.fixture(scope="module")
def network() -> SmallCNN:
    """The small network with random weights."""
    torch.manual_seed(0)
    return SmallCNN(shape=(1, 28, 28), classes=10)


def weights_of(network: SmallCNN) -> Weights:
    """A copy of the weights, as they are sent to a process."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def test_ours_takes_the_optimizer_of_the_budget(
    network: SmallCNN, examples: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eps near 0 a step equals one of torch's AdamW, but for weights whose gradient is rounding noise."""
    readings = iter([5.0, 7.25])
    monkeypatch.setattr(trainers, "clock", lambda: next(readings))
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
    assert seconds == 2.25


@pytest.mark.parametrize("name", TRAINERS)
def test_each_trainer_learns_from_a_copy(network: SmallCNN, examples: ImageSet, name: str) -> None:
    """The trained weights lower the loss on the training images by 30 %, and the initial weights stay unchanged."""
    start, before = weights_of(network), weights_of(network)
    labels = torch.tensor([0, 1, 2, 3])
    budget = TrainingBudget(eps=0.02, steps=2, epochs=60, batch_size=4, lr=3e-3)
    trained, _ = train("advdef", name, start, examples.images.numpy(), labels.numpy(), budget, 0)
    assert all((start[key] == before[key]).all() for key in before)
    losses = []
    for weights in (start, trained):
        copy = SmallCNN(shape=(1, 28, 28), classes=10)
        copy.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        losses.append(functional.cross_entropy(copy.eval()(examples.images), labels).item())
    assert losses[1] < 0.7 * losses[0]


def test_networks_are_scored_by_their_weights(network: SmallCNN) -> None:
    """A network that always predicts 3 is right about the one image of class 3 in four, under any attack."""
    weights = {name: 0 * value for name, value in weights_of(network).items()}
    weights["fc2.bias"][3] = 10
    test = ImageSet(torch.full((4, 1, 28, 28), 0.5), torch.tensor([1, 2, 3, 4]))
    assert score(weights, 5.0, test, eps=0.1) == Trained(clean=0.25, robust=0.25, seconds=5.0)


def test_the_table_has_the_means_of_the_turns() -> None:
    """The accuracies and the seconds are means, with the standard deviation; the ratio is taken within each turn."""
    results = {
        ("awp", "advdef"): [Trained(0.8, 0.5, 10.0), Trained(0.7, 0.4, 20.0)],
        ("awp", "ART"): [Trained(0.9, 0.6, 30.0), Trained(0.9, 0.3, 40.0)],
    }
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in trainers_table(results).splitlines()[2:]]
    assert cells == [
        ["awp", "advdef", "75.0 %", "45.0 % ± 7.1 (40.0 to 50.0)", "15", "1.00"],
        ["awp", "ART", "90.0 %", "45.0 % ± 21.2 (30.0 to 60.0)", "35", "2.50 (2.00 to 3.00)"],
    ]

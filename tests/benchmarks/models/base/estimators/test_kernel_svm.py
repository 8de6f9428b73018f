from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.benchmarks.models.base.estimators.kernel_svm import Votes

from .conftest import Examples

MACHINES = [
    "SVC",
    "SVC?kernel=linear",
    "SVC?kernel=poly&coef0=0.5&degree=2",
    "SVC?kernel=sigmoid&gamma=0.05",
    "NuSVC?nu=0.3",
]


@pytest.mark.parametrize("name", MACHINES)
def test_the_decision_values_of_all_pairs_are_those_of_scikit_learn(examples: Examples, name: str) -> None:
    network = examples.learned(name)
    assert network.layers is not None
    pairs = network.layers[:-1](examples.images).double()
    network.fitted.decision_function_shape = "ovo"
    assert torch.allclose(pairs, torch.from_numpy(network.fitted.decision_function(examples.rows)), atol=1e-4)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("ties", ["true", "false"])
def test_the_votes_elect_the_class_that_scikit_learn_predicts(examples: Examples, name: str, ties: str) -> None:
    """On random images, where votes are often tied; and they are its decision function but for the settled ties."""
    network = examples.learned(f"{name}{'&' if '?' in name else '?'}break_ties={ties}")
    images = torch.rand(300, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = images.flatten(1).double().numpy()
    logits = network(images)
    assert np.array_equal(logits.argmax(1).numpy(), network.fitted.predict(rows))
    values = network.fitted.decision_function(rows)
    agree = values.argmax(1) == logits.argmax(1).numpy()
    assert torch.allclose(logits[agree].double(), torch.from_numpy(values[agree]), atol=1e-3)


@pytest.mark.parametrize("name", MACHINES)
def test_a_binary_machine_has_the_decision_function_and_its_gradient(examples: Examples, name: str) -> None:
    """The gradient is compared with differences of scikit-learn's own values in double precision."""
    data = examples.binary()
    network = data.learned(name)
    images = data.images[:5].clone().requires_grad_()
    logits = network(images)
    margin = logits[:, 1] - logits[:, 0]
    assert np.allclose(margin.detach().numpy(), network.fitted.decision_function(data.rows[:5]), atol=1e-5)
    (gradient,) = torch.autograd.grad(margin.sum(), images)
    moves = 1e-5 * np.eye(9)
    slopes = [
        (network.fitted.decision_function(row + moves) - network.fitted.decision_function(row - moves)) / 2e-5
        for row in data.rows[:5]
    ]
    assert np.allclose(gradient.flatten(1).numpy(), slopes, atol=1e-3)


def test_attacks_follow_soft_votes() -> None:
    """Three classes: the pairs (0, 1), (0, 2) and (1, 2); a whole vote of each pair goes to one of its two, with a slope."""
    layer, values = Votes(3, break_ties=False), torch.tensor([[1e6, 1e6, -1e6], [0.1, -0.2, 0.3]], requires_grad=True)
    assert isinstance(layer, BPDALayer)
    assert torch.allclose(layer.surrogate(values[:1]), torch.tensor([[2.0, 0.0, 1.0]]), atol=1e-5)
    assert layer.surrogate(values).sum(1).tolist() == pytest.approx([3, 3])
    (gradient,) = torch.autograd.grad(layer(values)[:, 0].sum(), values)
    assert gradient[0, 0] > 0 and gradient[0, 1] > 0
    assert gradient[1, 0] > 0 and gradient[1, 1] > 0 and gradient[1, 2] == 0

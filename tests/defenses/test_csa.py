from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.csa import CSA, min_max_penalty
from robustbench_cli.defenses.pgd_at import PGDAT


def test_the_loss_is_the_cross_entropy_and_the_mean_cost(normed: Callable[[], nn.Module]) -> None:
    """Image by image and answer by answer; labels as probabilities give the same."""
    network, images, labels = normed().eval(), torch.rand(20, 1, 8, 8), torch.randint(10, (20,))
    defense = CSA(protected=[2, 7], cost=5, false_alarm=3, weight=0.4)
    logits = network(images)
    cost = 0.0
    for shares, label in zip(logits.softmax(1).tolist(), labels.tolist(), strict=True):
        for answer, share in enumerate(shares):
            if answer != label:
                cost += share * (5 if label in {2, 7} else 3 if answer in {2, 7} else 1) / 20
    expected = functional.cross_entropy(logits, labels).item() + 0.4 * cost
    for given in (labels, functional.one_hot(labels, 10).float()):
        assert defense.batch_loss(network, images, images, given).item() == pytest.approx(expected, rel=1e-5)


def test_without_costs_it_is_pgd_at(normed: Callable[[], nn.Module]) -> None:
    """With the same draws, bit by bit; on clean images there is no attack."""
    network, images, labels = normed().eval(), torch.rand(20, 1, 8, 8), torch.randint(10, (20,))
    values = []
    for defense in (CSA(weight=0), PGDAT()):
        torch.manual_seed(1)
        values.append(defense.loss(network, images, labels))
    assert torch.equal(*values)
    clean = CSA(weight=0, adversarial=False).loss(network, images, labels)
    assert torch.equal(clean, functional.cross_entropy(network(images), labels))


def test_the_penalty_has_the_min_max_property() -> None:
    """It is 1 for weights of one size and 1 / sqrt(n) for a single one; descending it, most shrink and few grow."""
    layer = nn.Conv2d(4, 4, 3)
    with torch.no_grad():
        layer.weight.fill_(-0.3)
    assert min_max_penalty(layer).item() == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        layer.weight.zero_()[0, 0, 0, 0] = 2
    assert min_max_penalty(layer).item() == pytest.approx(1 / 12, rel=1e-5)
    assert min_max_penalty(nn.Linear(3, 3)) == 0
    nn.init.zeros_(layer.weight)
    min_max_penalty(layer).backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()

    nn.init.normal_(layer.weight)
    start = layer.weight.detach().abs()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        min_max_penalty(layer).backward()
        optimizer.step()
    sizes = layer.weight.detach().abs()
    assert (sizes < 0.1 * start.mean()).double().mean() > 0.8
    assert sizes.max() > start.max()


@pytest.mark.parametrize("protected", [[], [1]])
def test_a_protected_class_is_answered_where_it_is_the_less_likely_one(protected: list[int]) -> None:
    """Where 3 of 10 equal images are of class 1, the probability is that of the smallest loss, which SciPy finds."""
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    bias = nn.Parameter(torch.zeros(2))
    defense = CSA(protected=protected, cost=10, weight=0.5)
    optimizer = torch.optim.LBFGS([bias], max_iter=50, tolerance_change=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = defense.batch_loss(lambda images: bias.expand(len(images), 2), labels, labels, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    cost = 10 if protected else 1
    best = minimize_scalar(
        lambda p: -0.3 * np.log(p) - 0.7 * np.log(1 - p) + 0.5 * (0.3 * cost * (1 - p) + 0.7 * p),
        bounds=(1e-6, 1 - 1e-6),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert bias.softmax(0)[1].item() == pytest.approx(best, abs=1e-4)
    assert (best > 0.5) == bool(protected)


def test_a_class_that_does_not_exist_is_one_line(normed: Callable[[], nn.Module]) -> None:
    """Before the training; data in memory name no classes."""
    examples: tuple[Tensor, Tensor] = torch.rand(20, 1, 8, 8), torch.randint(10, (20,))
    with pytest.raises(
        UserError, match=r"^CSA\.protected has the class 10, which does not exist: give numbers, 0 to 9$"
    ):
        defend(normed(), CSA(protected=[10]), examples, epochs=1)
    with pytest.raises(UserError, match=r"^CSA\.protected has the class 'nine', and the data name no classes"):
        defend(normed(), CSA(protected=["nine"]), examples, epochs=1)

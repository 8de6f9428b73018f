from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.losses import slope_and_value
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.expected_cost import ExpectedCost
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError

COSTS = {"protected": [0, 3], "cost": 10, "false_alarm": 5}


def exact(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the expected cost in float64, class by class."""
    shares = logits.double().softmax(1)
    values = []
    for row, label in zip(shares, labels.tolist(), strict=True):
        costs = [
            0 if answer == label else 10 if label in {0, 3} else 5 if answer in {0, 3} else 1 for answer in range(5)
        ]
        values.append(sum(cost * share for cost, share in zip(costs, row, strict=True)).log())
    return torch.stack(values)


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_loss_and_its_slope(scale: float) -> None:
    """They are those of the definition in float64, also where one class has nearly all of the probability."""
    logits = scale * torch.randn(200, 5)
    labels = torch.randint(5, (200,))
    leaf = logits.double().requires_grad_()
    expected = exact(leaf, labels)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    slope, value = slope_and_value(ExpectedCost(**COSTS).loss, logits, labels)
    torch.testing.assert_close(value().double(), expected.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slope.double(), gradient, atol=1e-12, rtol=2e-3)


def test_it_finds_the_costliest_error_of_a_grid() -> None:
    """On linear models of two pixels it pays what the costliest of 101 x 101 images of the ball pays."""
    ticks = torch.linspace(-0.2, 0.2, 101)
    grid = torch.tensor(list(itertools.product(ticks.tolist(), ticks.tolist()))).view(-1, 1, 1, 2)
    labels = torch.arange(5).repeat(12)
    images = torch.full((60, 1, 1, 2), 0.5)
    method = ExpectedCost(**COSTS, steps=30, restarts=5)
    for _ in range(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(2, 5)).requires_grad_(False)
        model[1].weight.mul_(4)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2 + 0.05 * torch.randn(5))
        costs = method.costs(labels, 5)
        paid = costs.gather(1, model(method(model, images, labels, eps=0.2)).argmax(1, keepdim=True)).squeeze(1)
        everywhere = costs[:, model(images[0] + grid).argmax(1)].amax(1)
        assert (paid >= everywhere).double().mean() >= 0.95


@pytest.mark.parametrize("false_alarm", [1e6, 1e-6])
def test_a_cheap_error_is_better_than_none(false_alarm: float) -> None:
    """Also beside an iterate without an error whose expected cost is larger."""
    method = ExpectedCost(protected=[0], false_alarm=false_alarm)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    cheap = 2 if false_alarm > 1 else 0
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 0, 0, cheap] = 9
    logits[0, 1, 0] = torch.tensor([0.9, 1.0, 0.9])
    threat = Threat(norm="linf", eps=torch.full((1,), 0.1))
    label = torch.tensor([1])
    best = method.best_iterates(EOT(model), torch.rand(1, 1, 1, 1), label, threat)
    error, none = best.distance_to_goal(logits, label.expand(2, 1))
    assert error < none


def test_costs_that_are_all_alike_give_pgd() -> None:
    """The direction is that of the cross-entropy then, and so are the images, up to the rounding of two losses."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).requires_grad_(False)
    images, labels = torch.rand(40, 1, 4, 4), torch.randint(5, (40,))
    ours = ExpectedCost(protected=[1])(model, images, labels, eps=0.05)
    torch.testing.assert_close(ours, PGD()(model, images, labels, eps=0.05))
    towards = {"eps": 0.05, "targeted": True}
    assert torch.equal(ExpectedCost(**COSTS)(model, images, labels, **towards), PGD()(model, images, labels, **towards))


def test_a_class_that_the_model_lacks_is_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(UserError, match=r"ExpectedCost\.protected has the class 5, which does not exist"):
        ExpectedCost(protected=[5])(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), eps=0.1)

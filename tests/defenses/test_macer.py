from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.defenses.macer import MACER


class Watched(nn.Module):
    """A network that stores its last logits."""

    logits: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        self.logits = self.inner(rows)
        return self.logits


@pytest.mark.parametrize("gamma", [8.0, 0.6])
@pytest.mark.parametrize("beta", [16.0, 3.0])
def test_the_loss_is_the_papers(network: Callable[[], nn.Module], beta: float, gamma: float) -> None:
    """From the same logits, numpy and scipy compute the same loss, image by image."""
    defense = MACER(sigma=0.5, noise_samples=8, radius_weight=5, beta=beta, gamma=gamma)
    model, images = Watched(network()), torch.rand(60, 1, 8, 8)
    labels = model(images).argmax(1)
    labels[::3] = (labels[::3] + 1) % 10
    result = defense.loss(model, images, labels)
    logits = model.logits.detach().double().numpy().reshape(8, 60, 10)

    def soft(values: Any) -> Any:
        powers = np.exp(values - values.max(2, keepdims=True))
        return (powers / powers.sum(2, keepdims=True)).mean(0)

    plain, sharp, total, kept = soft(logits), soft(beta * logits), 0.0, 0
    for row, label in enumerate(labels.tolist()):
        total -= np.log(plain[row, label])
        order = sharp[row].argsort()
        gap = stats.norm.ppf(sharp[row, order[-1]]) - stats.norm.ppf(sharp[row, order[-2]])
        if order[-1] == label and gap < gamma:
            total += 5 * 0.5 / 2 * (gamma - gap)
            kept += 1
    assert result.item() == pytest.approx(total / 60, rel=1e-4)
    assert 0 < kept < 60


def test_what_is_sure_has_no_slope_in_the_hinge() -> None:
    """For a probability of 1 or a misclassified image the hinge is 0 and all gradients are finite."""
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    model, images, labels = nn.Sequential(nn.Flatten(), linear), torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    hinged, plain = (MACER(radius_weight=weight).loss(model, images, labels) for weight in (12, 0))
    assert hinged.item() == pytest.approx(plain.item())
    (gradient,) = torch.autograd.grad(hinged, [linear.bias])
    assert gradient.isfinite().all()


def test_the_hinge_enlarges_the_radius() -> None:
    """On a linear model, a gradient step moves the decision boundary away from a correct image."""
    linear, image = nn.Linear(2, 2), torch.tensor([[[[1.0, 0.0]]]])
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        linear.bias.zero_()

    def distance() -> float:
        weight = (linear.weight[0] - linear.weight[1]).detach()
        gap = weight @ image.flatten() + linear.bias[0].detach() - linear.bias[1].detach()
        return float(gap / weight.norm())

    model, before = nn.Sequential(nn.Flatten(), linear), distance()
    loss = MACER(noise_samples=2000, sigma=1).loss(model, image, torch.tensor([0]))
    gradients = torch.autograd.grad(loss, list(linear.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(linear.parameters(), gradients, strict=True):
            parameter.sub_(0.01 * gradient)
    assert distance() > before + 0.01

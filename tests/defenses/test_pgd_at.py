from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.defenses.pgd_at import PGDAT


def test_the_loss_on_a_linear_model() -> None:
    """With two classes PGD reaches the largest possible change of the margin, ``eps ||w||_1``."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images, labels = 0.5 + 0.1 * torch.rand(30, 1, 4, 4), torch.randint(2, (30,))
    weight = model[1].weight[1] - model[1].weight[0]
    bias = model[1].bias[1] - model[1].bias[0]
    margins = (2 * labels - 1) * (images.flatten(1) @ weight + bias)
    expected = functional.softplus(-(margins - 0.2 * weight.abs().sum())).mean()
    # Steps add up to 2.5 eps: from any start they reach the corner.
    torch.testing.assert_close(PGDAT(eps=0.2).loss(model, images, labels), expected)


def test_the_gradient_is_at_the_perturbed_images() -> None:
    """The gradient is that of the logistic loss at the worst corner."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])
    value = PGDAT(eps=0.1).loss(model, images, labels)
    (gradient,) = torch.autograd.grad(value, [model[1].weight])
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    corner = 0.5 - 0.1 * weight.sign()
    margin = corner @ weight + (model[1].bias[1] - model[1].bias[0]).item()
    slope = 1 / (1 + math.exp(margin))
    torch.testing.assert_close(gradient, torch.stack([slope * corner, -slope * corner]))
